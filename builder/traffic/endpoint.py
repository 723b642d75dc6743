"""A simulated day of an endpoint that scales its workers, or of a fixed number of Pods."""

import random
from array import array
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil, nan
from typing import Any, Literal

import simpy

from builder.traffic.day import DAY_SECONDS, HOUR_SECONDS, Lengths, Traffic
from builder.traffic.worker import Request, SimulatedWorker, WorkerSpeed

SCALER_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True)
class Scaling:
    """When workers start and stop.

    Attributes:
        min_workers: which always run.
        max_workers: at once.
        scaler: QUEUE_DELAY or REQUEST_COUNT, as Runpod has them.
        value: seconds that a request may wait, or requests per worker.
        idle_timeout_seconds: until a worker without requests stops, not with REQUEST_COUNT.
        cold_start_seconds: until a new worker serves.
        flashboot_seconds: the same for one whose state was kept; None without FlashBoot.
    """

    min_workers: int = 0
    max_workers: int = 3
    scaler: Literal["QUEUE_DELAY", "REQUEST_COUNT"] = "QUEUE_DELAY"
    value: float = 4.0
    idle_timeout_seconds: float = 5.0
    cold_start_seconds: float = 60.0
    flashboot_seconds: float | None = None


@dataclass(frozen=True)
class DayResult:
    """What happened in a day.

    Attributes:
        arrivals: of the requests, in seconds from midnight, in order.
        waits: their seconds to the first token; to the day's end where there was none.
        durations: their seconds to the last token, likewise.
        flex_seconds: paid for workers beyond `min_workers`, each rounded up to whole seconds.
        always_on_seconds: of the workers that always run.
        busy_seconds: in which a worker had a request, summed over the workers.
        changes: (second, workers that run or start), at each change.
        cold_starts, restores: starts without and with a kept state.
    """

    arrivals: "array[float]"
    waits: "array[float]"
    durations: "array[float]"
    flex_seconds: int
    always_on_seconds: float
    busy_seconds: float
    changes: tuple[tuple[float, int], ...]
    cold_starts: int
    restores: int

    @property
    def paid_seconds(self) -> float:
        return self.flex_seconds + self.always_on_seconds

    @property
    def idle_share(self) -> float:
        """The share of the paid time in which a worker had no request, starts among it."""
        return 1 - self.busy_seconds / self.paid_seconds if self.paid_seconds else 0.0

    @property
    def max_workers(self) -> int:
        return max(count for _, count in self.changes)

    @cached_property
    def wait_percentiles(self) -> tuple[float, float, float]:
        """The seconds to the first token, p50, p95 and p99; no numbers without a request."""
        waits = sorted(self.waits) or [nan]
        return percentile(waits, 0.5), percentile(waits, 0.95), percentile(waits, 0.99)

    @cached_property
    def worst_hour_p95(self) -> float:
        """The p95 of the waits in the hour in which it is the highest."""
        hours: dict[int, list[float]] = {}
        for arrived, wait in zip(self.arrivals, self.waits, strict=True):
            hours.setdefault(int(arrived // HOUR_SECONDS), []).append(wait)
        return max((percentile(sorted(waits), 0.95) for waits in hours.values()), default=nan)

    @cached_property
    def duration_p95(self) -> float:
        return percentile(sorted(self.durations) or [nan], 0.95)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the sorted values that this share of them does not exceed."""
    return values[ceil(share * len(values)) - 1]


def requests_of_day(
    traffic: Traffic, prompt: Lengths, answer: Lengths, seed: int = 0
) -> Iterator[Request]:
    """Yield the requests of a day; the same seed gives the same, whatever serves them."""
    times, lengths = random.Random(seed), random.Random(seed + 1)
    for second in traffic.arrivals(times):
        yield Request(second, prompt.draw(lengths), answer.draw(lengths))


def simulate(
    requests: Iterable[Request],
    speed: WorkerSpeed,
    scaling: Scaling,
    *,
    seconds: float = DAY_SECONDS,
) -> DayResult:
    """Simulate a day that begins with `min_workers` workers and no request.

    Args:
        requests: in the order of their arrival; their times are filled in.
        seconds: until when.
    """
    environment = simpy.Environment()
    endpoint = _Endpoint(environment, speed, scaling)
    environment.process(_arrivals(environment, endpoint, requests))
    if scaling.max_workers > scaling.min_workers:
        environment.process(endpoint.scale())
    environment.run(until=seconds)
    return endpoint.finish()


def _arrivals(
    environment: simpy.Environment, endpoint: "_Endpoint", requests: Iterable[Request]
) -> Generator[simpy.Event, Any, None]:
    for request in requests:
        yield environment.timeout(request.arrived - environment.now)
        endpoint.arrive(request)


class _Endpoint:
    """The queue, its workers and the scaler.

    Runpod documents when workers are needed, and not how fast they are added or, with
    REQUEST_COUNT, stopped. Here the scaler looks once a second. QUEUE_DELAY starts a worker at
    once where there is none, and one more each time that the first in the queue has waited for the
    delay since the last start, but no more than there are requests in the queue. REQUEST_COUNT
    starts all that are missing, and stops a worker that has no request.
    """

    def __init__(
        self,
        environment: simpy.Environment,
        speed: WorkerSpeed,
        scaling: Scaling,
    ) -> None:
        self._environment, self._scaling = environment, scaling
        self._scales_by_count = scaling.scaler == "REQUEST_COUNT"
        self._new_worker = partial(SimulatedWorker, environment, speed, self._serve)
        self._requests: list[Request] = []
        self._queue: deque[Request] = deque()
        self._always_on = [self._new_worker() for _ in range(scaling.min_workers)]
        self._flex: dict[SimulatedWorker, float] = {}  # and when its start began
        self._starting: list[float] = []  # when each start began
        self._last_start = 0.0
        self._scaler_sleep: simpy.Event | None = None
        self._kept_states = 0  # of workers that have stopped
        self._flex_seconds, self._busy_seconds = 0, 0.0
        self._cold_starts = self._restores = 0
        self._changes = [(0.0, scaling.min_workers)]

    @property
    def _workers(self) -> int:
        return len(self._always_on) + len(self._flex) + len(self._starting)

    @property
    def _running(self) -> int:
        """The requests that workers have."""
        return sum(each.running for each in (*self._always_on, *self._flex))

    def arrive(self, request: Request) -> None:
        self._requests.append(request)
        self._queue.append(request)
        self._serve()
        if self._scaler_sleep is not None and (self._queue or self._scales_by_count):
            self._scaler_sleep.succeed()
            self._scaler_sleep = None

    def finish(self) -> DayResult:
        """Stop every worker, and return what happened."""
        now = self._environment.now
        for worker in list(self._flex):
            self._stop(worker)
        self._flex_seconds += sum(ceil(now - began) for began in self._starting)

        def seconds(request: Request, end: float | None) -> float:
            return (now if end is None else end) - request.arrived

        return DayResult(
            arrivals=array("d", (each.arrived for each in self._requests)),
            waits=array("d", (seconds(each, each.first_token) for each in self._requests)),
            durations=array("d", (seconds(each, each.finished) for each in self._requests)),
            flex_seconds=self._flex_seconds,
            always_on_seconds=now * len(self._always_on),
            busy_seconds=self._busy_seconds + sum(each.busy_seconds for each in self._always_on),
            changes=tuple(self._changes),
            cold_starts=self._cold_starts,
            restores=self._restores,
        )

    def _serve(self) -> None:
        """Give waiting requests to the ready workers, first to those with the fewest."""
        while self._queue:
            ready = [each for each in (*self._always_on, *self._flex) if each.has_room]
            if not ready:
                return
            min(ready, key=lambda each: each.running).add(self._queue.popleft())

    def scale(self) -> Generator[simpy.Event, Any, None]:
        """Start and stop workers, once a second while there are any to start or to stop."""
        idle_seconds = 0.0 if self._scales_by_count else self._scaling.idle_timeout_seconds
        while True:
            now = self._environment.now
            for worker in list(self._flex):
                if not worker.running and now - worker.idle_since >= idle_seconds:
                    self._stop(worker)
            for _ in range(self._missing_workers()):
                self._last_start = now
                self._environment.process(self._start())
            counts = self._scales_by_count and self._running
            if self._queue or self._flex or self._starting or counts:
                yield self._environment.timeout(SCALER_INTERVAL_SECONDS)
            else:
                self._scaler_sleep = self._environment.event()
                yield self._scaler_sleep

    def _missing_workers(self) -> int:
        """Return how many workers to start now."""
        scaling, now = self._scaling, self._environment.now
        room = scaling.max_workers - self._workers
        if room <= 0:
            return 0
        if self._scales_by_count:
            needed = ceil((len(self._queue) + self._running) / scaling.value)
            return max(0, min(room, needed - self._workers))
        if not self._queue:
            return 0
        if not self._workers:
            return 1
        if len(self._starting) >= len(self._queue):
            return 0
        waits_since = max(self._queue[0].arrived, self._last_start)
        return int(now - waits_since >= scaling.value)

    def _start(self) -> Generator[simpy.Event, Any, None]:
        scaling, began = self._scaling, self._environment.now
        if scaling.flashboot_seconds is not None and self._kept_states:
            self._kept_states -= 1
            self._restores += 1
            seconds = scaling.flashboot_seconds
        else:
            self._cold_starts += 1
            seconds = scaling.cold_start_seconds
        self._starting.append(began)
        self._changes.append((began, self._workers))
        yield self._environment.timeout(seconds)
        self._starting.remove(began)
        self._flex[self._new_worker()] = began
        self._serve()

    def _stop(self, worker: SimulatedWorker) -> None:
        now = self._environment.now
        self._flex_seconds += ceil(now - self._flex.pop(worker))
        self._busy_seconds += worker.busy_seconds
        self._kept_states += 1
        self._changes.append((now, self._workers))
