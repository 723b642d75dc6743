"""`plan --traffic`: what a day of traffic costs with the model, on the GPUs of the plan."""

import argparse
import contextlib
import logging
import signal
from collections.abc import Iterator
from functools import partial
from multiprocessing import Pool

from builder.cli import INTERRUPTS, signals_held
from builder.errors import InvalidArgument
from builder.plan.estimate import Estimate, Estimator
from builder.plan.report import Plan
from builder.traffic.demand import Demand
from builder.traffic.deployments import (
    ForecastInput,
    GpuOption,
    cheapest_at_peak,
    compare,
    find_crossing,
)
from builder.traffic.endpoint import Scaling
from builder.traffic.report import Forecast, GpuForecast
from builder.traffic.worker import WorkerSpeed, interpolated_steps
from handler.gpu_pools import HOUR_SECONDS

log = logging.getLogger(__name__)

GPU_OPTIONS = 2  # kinds of GPUs to simulate
SILENT_REQUESTS = 20_000  # a day; more take longer than one waits without a word
FEW_REQUESTS = 200
# What engines reach of the GPUs' bandwidth and of their operations: assumed, not measured.
DECODE_EFFICIENCY = 0.7
PREFILL_EFFICIENCY = 0.5
# Of a cold start: everything but the weights, and what is read of these; both assumed.
ENGINE_START_SECONDS = 60.0
LOAD_BYTES_PER_SECOND = 1e9


def make_forecast(
    options: argparse.Namespace, demand: Demand, plan: Plan, estimator: Estimator
) -> Forecast:
    """Simulate the day on the GPUs that are the cheapest for its peak.

    Raises:
        InvalidArgument: no GPU fits, or no price is known.
    """
    scaling = Scaling(
        scaler="REQUEST_COUNT" if options.request_count else "QUEUE_DELAY",
        value=options.request_count or options.queue_delay,
        idle_timeout_seconds=options.idle_timeout,
        cold_start_seconds=options.cold_start
        or ENGINE_START_SECONDS + plan.weights.bytes / LOAD_BYTES_PER_SECOND,
        flashboot_seconds=options.flashboot or None,
    )
    asked = ForecastInput(demand, scaling, options.slo_p95, max_workers=options.max_workers)
    fitting = [each for each in plan.estimates if each.obstacle is None]
    if options.speed or options.prefill_speed:  # of one number of GPUs
        fitting = fitting[:1]
    gpu_options = [_gpu_option(options, estimator, estimate) for estimate in fitting]
    chosen = cheapest_at_peak(gpu_options, asked, GPU_OPTIONS)
    if not chosen:
        raise InvalidArgument("--traffic: no GPU fits, or no price is known.")
    if demand.traffic.requests > SILENT_REQUESTS:
        log.info(
            "simulating %.0f requests on %d kinds of GPUs", demand.traffic.requests, len(chosen)
        )
    with contextlib.ExitStack() as stack:
        with signals_held():  # the exit of a pool ends only processes that it knows
            pool = stack.enter_context(Pool(initializer=_reset_signals))
        crossings = pool.map_async(partial(find_crossing, asked), chosen)
        results = [tuple(compare(gpu, asked, pool)) for gpu in chosen]
        forecasts = map(GpuForecast, chosen, results, crossings.get())
        notes = tuple(_notes(options, plan, asked, len(gpu_options)))
        return Forecast(asked, plan.prices_date, tuple(forecasts), notes)


def _reset_signals() -> None:
    """Leave the terminal's signals to the command, which ends the pool's processes by SIGTERM."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)


def _gpu_option(options: argparse.Namespace, estimator: Estimator, estimate: Estimate) -> GpuOption:
    pool, gpus = estimate.pool, estimate.gpus
    sequences = max(1, estimate.max_sequences)
    if options.speed is not None:  # nothing is known of more requests than were measured
        steps = interpolated_steps(options.speed, min(sequences, max(options.speed)))
    else:
        steps = tuple(
            running / estimator.tokens_per_second(pool, gpus, running) / DECODE_EFFICIENCY
            for running in range(1, sequences + 1)
        )
    prefill = options.prefill_speed or (
        PREFILL_EFFICIENCY * estimator.prefill_tokens_per_second(pool, gpus)
    )

    def price(hour: float | None, discount_percent: float = 0.0) -> float | None:
        return None if hour is None else hour / HOUR_SECONDS * gpus * (1 - discount_percent / 100)

    return GpuOption(
        name=f"{gpus} × {pool.label} ({pool.name})",
        speed=WorkerSpeed(steps, prefill),
        flex_price=price(pool.flex_dollars_per_hour),
        active_price=price(pool.flex_dollars_per_hour, options.active_discount),
        pod_price=price(pool.pod_dollars_per_hour),
        savings_price=price(pool.pod_dollars_per_hour, options.savings_plan),
    )


def _notes(
    options: argparse.Namespace, plan: Plan, asked: ForecastInput, fitting: int
) -> Iterator[str]:
    """Yield what the figures rest on."""
    scaling, requests = asked.scaling, asked.demand.traffic.requests
    if fitting > GPU_OPTIONS:
        yield (
            f"The {GPU_OPTIONS} GPUs whose workers cost the least at the peak, of {fitting} that "
            "fit; --gpu names others."
        )
    if requests < FEW_REQUESTS:
        yield f"Only {requests:.0f} requests: percentiles of so few change with every day."
    estimated = {
        "decode speed": options.speed,
        "prefill speed": options.prefill_speed,
        "cold start": options.cold_start,
    }
    if names := [name for name, given in estimated.items() if given is None]:
        yield (
            f"Estimates, not measurements: {', '.join(names)}. Give --speed, --prefill-speed and "
            "--cold-start what you have measured. Several GPUs are taken to share a model without "
            "loss."
        )
    boot = scaling.flashboot_seconds
    restore = "there is no FlashBoot" if boot is None else f"one from a kept state {boot:g} s"
    yield (
        f"A cold start takes {scaling.cold_start_seconds:.0f} s, {restore}. A wait is the time to "
        "the first token, done that to the last one. A month has 30 such days."
    )
    yield (
        f"Prices as of {plan.prices_date}; active workers {options.active_discount:g} % and a "
        f"savings plan {options.savings_plan:g} % cheaper (Runpod publishes neither); without "
        "disks and volumes."
    )
