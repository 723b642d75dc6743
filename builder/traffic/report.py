"""The forecast as a table for people, as JSON for programs, and as a picture."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import Any

from builder.cli import aligned
from builder.errors import InvalidArgument
from builder.traffic.day import DAY_SECONDS, HOUR_SECONDS
from builder.traffic.deployments import (
    DAYS_PER_MONTH,
    SAVINGS_PLAN,
    Crossing,
    DeploymentResult,
    ForecastInput,
    GpuOption,
    cheapest,
)
from builder.traffic.endpoint import DayResult, percentile

COLUMNS = (
    ("deployment", lambda each: each.deployment.name),
    ("$/day", lambda each: f"{each.dollars:.2f}"),
    ("$/month", lambda each: f"{each.dollars * DAYS_PER_MONTH:.0f}"),
    ("wait p50", lambda each: f"{each.day.wait_percentiles[0]:.2f} s"),
    ("p95", lambda each: f"{each.day.wait_percentiles[1]:.2f} s"),
    ("p99", lambda each: f"{each.day.wait_percentiles[2]:.2f} s"),
    ("worst hour", lambda each: f"{each.day.worst_hour_p95:.2f} s"),
    ("done p95", lambda each: f"{each.day.duration_p95:.1f} s"),
    ("paid", lambda each: f"{each.day.paid_seconds / HOUR_SECONDS:.1f} h"),
    ("idle", lambda each: f"{each.day.idle_share * 100:.0f} %"),
    ("cold, kept starts", lambda each: f"{each.day.cold_starts}, {each.day.restores}"),
)
INTERVALS = 96  # of the picture
INTERVAL_SECONDS = DAY_SECONDS / INTERVALS


@dataclass(frozen=True)
class GpuForecast:
    """The best deployments on one kind of GPU, and where a Pod becomes cheaper."""

    gpu: GpuOption
    results: tuple[DeploymentResult, ...]
    crossing: Crossing | None


@dataclass(frozen=True)
class Forecast:
    """What a day costs on some kinds of GPUs."""

    asked: ForecastInput
    prices_date: str
    gpus: tuple[GpuForecast, ...]
    notes: tuple[str, ...]

    @property
    def results(self) -> list[DeploymentResult]:
        return [result for each in self.gpus for result in each.results]

    @property
    def best(self) -> DeploymentResult | None:
        """The cheapest on demand that meets the SLO, None if none does."""
        slo = self.asked.slo_p95_seconds
        on_demand = [each for each in self.results if each.deployment.kind != SAVINGS_PLAN]
        meeting = [each for each in on_demand if each.p95 <= slo]
        return cheapest(meeting, self.asked) if meeting else None


def forecast_as_text(forecast: Forecast) -> str:
    asked = forecast.asked
    demand, traffic = asked.demand, asked.demand.traffic
    lines = [
        f"traffic   {traffic.source}: {traffic.requests:,.0f} requests a day, "
        f"{traffic.peak_rate * HOUR_SECONDS:,.0f} an hour at most",
        f"lengths   prompt {_length(demand.prompt)}, answer {_length(demand.answer)}",
    ]
    for each in forecast.gpus:
        full = asked.full_rate(each.gpu.speed)
        lines += [
            "",
            f"{each.gpu.name}: a worker does {full * HOUR_SECONDS:,.0f} requests an hour",
        ]
        rows = [[name for name, _ in COLUMNS], *map(_cells, each.results)]
        lines += [*aligned(rows, left=(0,)), *_worker_lines(each.results)]
        if (crossing := each.crossing) is not None:
            lines.append(
                f"A Pod costs {crossing.paid_share * 100:.0f} % of a flex worker. At a steady rate "
                f"it is cheaper from {crossing.requests_per_hour:,.0f} requests an hour on, "
                f"{crossing.load * 100:.1f} % load."
            )
        elif each.gpu.pod_price is not None and each.gpu.flex_price is not None:
            lines.append("A flex worker is never dearer than a Pod.")
    slo = f"95 % wait at most {asked.slo_p95_seconds:g} s for the first token"
    best = forecast.best
    lines += ["", *forecast.notes, ""]
    if best is None:
        return "\n".join([*lines, f"None of these meets the SLO: {slo}."])
    return "\n".join(
        [*lines, f"Cheapest where {slo}: {best.deployment.gpu.name}, {best.deployment.name}."]
    )


def forecast_as_json(forecast: Forecast) -> dict[str, Any]:
    asked, best = forecast.asked, forecast.best
    demand = asked.demand
    return {
        "traffic": {
            "source": demand.traffic.source,
            "requests_per_day": demand.traffic.requests,
            "peak_requests_per_hour": demand.traffic.peak_rate * HOUR_SECONDS,
        },
        "prompt_tokens": asdict(demand.prompt),
        "answer_tokens": asdict(demand.answer),
        "scaling": asdict(asked.scaling),
        "prices_date": forecast.prices_date,
        "slo_p95_seconds": asked.slo_p95_seconds,
        "gpus": [
            {
                "name": each.gpu.name,
                "requests_per_hour": asked.full_rate(each.gpu.speed) * HOUR_SECONDS,
                "dollars_per_second": {
                    "flex": each.gpu.flex_price,
                    "active": each.gpu.active_price,
                    "pod": each.gpu.pod_price,
                    "savings_plan": each.gpu.savings_price,
                },
                "crossing": None if each.crossing is None else asdict(each.crossing),
                "deployments": [_result_as_json(result) for result in each.results],
            }
            for each in forecast.gpus
        ],
        "best": None
        if best is None
        else {"gpu": best.deployment.gpu.name, "deployment": best.deployment.name},
        "notes": list(forecast.notes),
    }


def _result_as_json(result: DeploymentResult) -> dict[str, Any]:
    day, scaling = result.day, result.deployment.scaling
    return {
        "kind": result.deployment.kind,
        "min_workers": scaling.min_workers,
        "max_workers": scaling.max_workers,
        "dollars_per_day": result.dollars,
        "dollars_per_month": result.dollars * DAYS_PER_MONTH,
        "wait_seconds": dict(zip(("p50", "p95", "p99"), day.wait_percentiles, strict=True)),
        "worst_hour_p95_seconds": day.worst_hour_p95,
        "duration_p95_seconds": day.duration_p95,
        "requests": len(day.waits),
        "paid_seconds": day.paid_seconds,
        "busy_seconds": day.busy_seconds,
        "idle_share": day.idle_share,
        "cold_starts": day.cold_starts,
        "restores": day.restores,
        "workers": [list(change) for change in day.changes],
    }


def save_picture(forecast: Forecast, path: Path) -> None:
    """Draw load, workers and waits over the day, on the GPUs of the best deployment.

    Raises:
        InvalidArgument: matplotlib is not installed.
    """
    # Its warnings are of its cache of fonts: slow to build, or in a folder that is not writable.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            "--plot needs matplotlib: pip install -r requirements/plan.txt."
        ) from error
    best = forecast.best
    gpu = next((each for each in forecast.gpus if best in each.results), forecast.gpus[0])
    figure = Figure(figsize=(9, 8), layout="constrained")
    load, workers, waits = figure.subplots(3, sharex=True)
    times = [index * INTERVAL_SECONDS for index in range(INTERVALS + 1)]
    hours = [time / HOUR_SECONDS for time in times]
    traffic = forecast.asked.demand.traffic
    rates = [traffic.rate(min(time, DAY_SECONDS - 1)) * HOUR_SECONDS for time in times]
    load.plot(hours, rates, color="black")
    load.set_ylabel("requests an hour")
    load.set_title(f"{gpu.gpu.name}: {traffic.source}")
    for result in gpu.results:
        if result.deployment.kind == SAVINGS_PLAN:
            continue  # the same day as on demand
        label = f"{result.deployment.name}: ${result.dollars:.2f} a day"
        means = _mean_workers(result.day, INTERVALS)
        workers.step(hours[:-1], means, where="post", label=label)
        waits.plot(hours[:-1], _p95_waits(result.day), label=label)
    slo = forecast.asked.slo_p95_seconds
    waits.axhline(slo, color="grey", linestyle=":", label=f"SLO, {slo:g} s")
    workers.set_ylabel("workers, mean of\n15 minutes")
    workers.legend(fontsize="small")
    waits.set_ylabel("wait for the first token,\np95 of 15 minutes, s")
    waits.set_yscale("log")
    waits.legend(fontsize="small")
    waits.set_xlabel("hour of the day")
    waits.set_xlim(0, 24)
    figure.savefig(path)


def _worker_lines(results: Iterable[DeploymentResult]) -> Iterator[str]:
    """Yield the workers over the day of the deployments in which they come and go."""
    for result in results:
        scaling = result.deployment.scaling
        if scaling.min_workers < scaling.max_workers:
            means = _mean_workers(result.day, 24)
            shown = " ".join(f"{each:.1f}" for each in means)
            yield f"workers in the hours from midnight, {result.deployment.name}: {shown}"


def _mean_workers(day: DayResult, intervals: int) -> list[float]:
    """Return the mean number of workers in each of so many parts of the day."""
    interval = DAY_SECONDS / intervals
    seconds = [0.0] * intervals
    ends = [*(at for at, _ in day.changes[1:]), DAY_SECONDS]
    for (begin, count), end in zip(day.changes, ends, strict=True):
        while begin < end:
            index = int(begin // interval)
            until = min(end, (index + 1) * interval)
            seconds[index] += count * (until - begin)
            begin = until
    return [each / interval for each in seconds]


def _p95_waits(day: DayResult) -> list[float]:
    """Return the p95 of the waits of each interval's requests."""
    waits: list[list[float]] = [[] for _ in range(INTERVALS)]
    for arrived, wait in zip(day.arrivals, day.waits, strict=True):
        waits[int(arrived // INTERVAL_SECONDS)].append(wait)
    return [percentile(sorted(each), 0.95) if each else nan for each in waits]


def _length(lengths: Any) -> str:
    variation = {0.0: "all the same", 1.0: "exponential"}.get(lengths.variation)
    return f"{lengths.mean:.0f} tokens ({variation or f'variation {lengths.variation:.2f}'})"


def _cells(result: DeploymentResult) -> list[str]:
    return [cell(result) for _, cell in COLUMNS]
