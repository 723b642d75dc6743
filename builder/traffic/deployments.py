"""The deployments that a day of traffic may have, what each costs, and the cheapest of them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from multiprocessing.pool import Pool

from builder.traffic.day import DAY_SECONDS, HOUR_SECONDS, constant_traffic
from builder.traffic.demand import Demand
from builder.traffic.endpoint import DayResult, Scaling, requests_of_day, simulate
from builder.traffic.worker import WorkerSpeed

FLEX, ACTIVE, PODS, SAVINGS_PLAN = "flex", "active and flex", "Pods", "Pods, savings plan"
DAYS_PER_MONTH = 30
MAX_ROUNDS = 4  # of simulations: each has more workers, for kinds that miss the SLO
CROSSING_REQUESTS = 2000  # of the simulations that look for the crossing, each
CROSSING_STEPS = 12
MIN_LOAD = 1e-4


@dataclass(frozen=True)
class GpuOption:
    """The GPUs of a worker; prices are of all of them, per second, None where one is not known.

    Attributes:
        name: in words.
        speed: of a worker.
        flex_price, active_price: of serverless workers that come and go, and that always run.
        pod_price, savings_price: of a Pod on demand, and with a savings plan.
    """

    name: str
    speed: WorkerSpeed
    flex_price: float | None
    active_price: float | None
    pod_price: float | None
    savings_price: float | None


@dataclass(frozen=True)
class Deployment:
    """Workers of one kind; `scaling` has their number.

    Attributes:
        kind: FLEX, ACTIVE, PODS or SAVINGS_PLAN.
        always_on_price: of the workers that always run, per second.
        flex_price: of the others.
    """

    kind: str
    gpu: GpuOption
    scaling: Scaling
    always_on_price: float
    flex_price: float = 0.0

    @property
    def name(self) -> str:
        low, high = self.scaling.min_workers, self.scaling.max_workers
        return f"{self.kind}, {low}" if low == high else f"{self.kind}, {low} to {high}"


@dataclass(frozen=True)
class DeploymentResult:
    """A deployment and its day."""

    deployment: Deployment
    day: DayResult

    @property
    def dollars(self) -> float:
        """The price of the day."""
        deployment, day = self.deployment, self.day
        return (
            day.always_on_seconds * deployment.always_on_price
            + day.flex_seconds * deployment.flex_price
        )

    @property
    def p95(self) -> float:
        return self.day.wait_percentiles[1]


@dataclass(frozen=True)
class ForecastInput:
    """The requests of a day, and how the endpoint is to scale.

    Attributes:
        demand: the requests.
        scaling: without its numbers of workers.
        slo_p95_seconds: that 95 % of the requests may wait for their first token.
        max_workers: at most, None for as many as pay.
    """

    demand: Demand
    scaling: Scaling
    slo_p95_seconds: float
    max_workers: int | None = None

    def simulate(
        self, speed: WorkerSpeed, scaling: Scaling, seconds: float = DAY_SECONDS
    ) -> DayResult:
        demand = self.demand
        requests = requests_of_day(demand.traffic, demand.prompt, demand.answer)
        return simulate(requests, speed, scaling, seconds=seconds)

    def needed_workers(self, speed: WorkerSpeed, rate: float) -> int:
        """Return how many full workers a rate of requests per second takes."""
        return max(1, ceil(rate / self.full_rate(speed)))

    def full_rate(self, speed: WorkerSpeed) -> float:
        """Return the requests per second that a worker can do."""
        return speed.requests_per_second(self.demand.prompt.mean, self.demand.answer.mean)


def cheapest_at_peak(
    gpus: Iterable[GpuOption], asked: ForecastInput, count: int
) -> list[GpuOption]:
    """Return the GPUs whose workers for the peak cost the least."""

    def price(gpu: GpuOption) -> float:
        workers = asked.needed_workers(gpu.speed, asked.demand.traffic.peak_rate)
        return workers * min(filter(None, (gpu.flex_price, gpu.pod_price)))

    return sorted((each for each in gpus if each.flex_price or each.pod_price), key=price)[:count]


def compare(gpu: GpuOption, asked: ForecastInput, pool: Pool) -> list[DeploymentResult]:
    """Return the best deployment of each kind that has a price; the pool simulates the days.

    The best is the cheapest that meets the SLO, or else the one with the shortest waits.
    """
    best: dict[str, DeploymentResult] = {}
    tried: set[Deployment] = set()
    for more in range(MAX_ROUNDS):
        met = {kind for kind, each in best.items() if each.p95 <= asked.slo_p95_seconds}
        candidates = [
            each
            for each in _candidates(gpu, asked, more)
            if each.kind not in met and each not in tried
        ]
        tried |= set(candidates)
        days = pool.map(partial(_simulate, asked), candidates)
        for result in map(DeploymentResult, candidates, days):
            kind = result.deployment.kind
            best[kind] = cheapest([best[kind], result], asked) if kind in best else result
    if gpu.savings_price is not None and PODS in best:
        pods = best[PODS]
        saving = replace(pods.deployment, kind=SAVINGS_PLAN, always_on_price=gpu.savings_price)
        best[SAVINGS_PLAN] = DeploymentResult(saving, pods.day)
    return list(best.values())


def cheapest(results: Iterable[DeploymentResult], asked: ForecastInput) -> DeploymentResult:
    """Return the cheapest that meets the SLO, or else the one with the shortest waits."""
    slo = asked.slo_p95_seconds
    return min(results, key=lambda each: (max(each.p95, slo), each.dollars))


@dataclass(frozen=True)
class Crossing:
    """Where a worker that is always there becomes as cheap as one that comes and goes.

    Attributes:
        requests_per_hour: at a steady rate.
        load: the part of what the worker can do.
        paid_share: of the time, by the flex worker.
    """

    requests_per_hour: float
    load: float
    paid_share: float


def find_crossing(asked: ForecastInput, gpu: GpuOption) -> Crossing | None:
    """Return where a Pod costs as much as one flex worker under a steady rate.

    None where it never does, or where a price is not known.
    """
    if gpu.flex_price is None or gpu.pod_price is None:
        return None
    full_rate = asked.full_rate(gpu.speed)
    scaling = replace(asked.scaling, min_workers=0, max_workers=1)

    def costs_more(load: float) -> bool:
        """Whether the flex worker does."""
        rate = load * full_rate
        seconds = min(DAY_SECONDS, CROSSING_REQUESTS / rate)
        steady = replace(asked, demand=replace(asked.demand, traffic=constant_traffic(rate)))
        day = steady.simulate(gpu.speed, scaling, seconds)
        return day.flex_seconds * (gpu.flex_price or 0) > seconds * (gpu.pod_price or 0)

    low, high = MIN_LOAD, 1.0
    if not costs_more(high):
        return None
    for _ in range(CROSSING_STEPS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if costs_more(middle) else (middle, high)
    paid_share = gpu.pod_price / gpu.flex_price
    return Crossing(high * full_rate * HOUR_SECONDS, high, paid_share)


def _candidates(gpu: GpuOption, asked: ForecastInput, more: int) -> list[Deployment]:
    """Return deployments to compare.

    Args:
        more: 0 for the numbers of workers that full ones would need at the peak and on average;
            each one more adds a half of these.
    """
    traffic = asked.demand.traffic
    peak = asked.needed_workers(gpu.speed, traffic.peak_rate)
    mean = asked.needed_workers(gpu.speed, traffic.requests / DAY_SECONDS)
    extra = more * ceil(peak / 2)
    if more:
        maximums = pods = {peak + 1 + extra}
        minimums = {mean + extra}
    else:
        maximums, minimums = {max(1, peak - 1), peak, peak + 1, 2 * peak}, {1, mean, peak}
        pods = {max(1, peak - 1), peak, peak + 1}
    limit = asked.max_workers or max(*maximums, *minimums, *pods)
    found = []
    if (price := gpu.flex_price) is not None:
        for most in sorted({min(limit, each) for each in maximums}):
            scaling = replace(asked.scaling, min_workers=0, max_workers=most)
            found.append(Deployment(FLEX, gpu, scaling, price, price))
        for least in sorted({min(limit, each) for each in minimums}):
            most = max(least, min(limit, peak + extra))
            scaling = replace(asked.scaling, min_workers=least, max_workers=most)
            found.append(Deployment(ACTIVE, gpu, scaling, gpu.active_price or price, price))
    if (price := gpu.pod_price) is not None:
        for count in sorted({min(limit, each) for each in pods}):
            scaling = replace(asked.scaling, min_workers=count, max_workers=count)
            found.append(Deployment(PODS, gpu, scaling, price))
    return found


def _simulate(asked: ForecastInput, deployment: Deployment) -> DayResult:
    return asked.simulate(deployment.gpu.speed, deployment.scaling)
