"""A simulated worker: requests that share a GPU, as an engine with continuous batching runs them.

The prefills of new requests come one after the other, and decoding pauses for them: chunked
prefill takes the same time in all, in small parts. Each decode step gives every running request
one token, and takes longer the more of them run.
"""

import heapq
import itertools
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import simpy


@dataclass
class Request:
    """One request; times are in seconds.

    Attributes:
        arrived: at the endpoint.
        first_token: when its first token was there, None before.
        finished: when its last one was, None before.
    """

    arrived: float
    prompt_tokens: float
    answer_tokens: float
    first_token: float | None = None
    finished: float | None = None


@dataclass(frozen=True)
class WorkerSpeed:
    """How fast a worker is.

    Attributes:
        step_seconds: of a decode step, by the number of running requests, from 1 on.
        prefill_tokens_per_second: None where prefill takes no time.
    """

    step_seconds: tuple[float, ...]
    prefill_tokens_per_second: float | None = None

    @property
    def max_sequences(self) -> int:
        return len(self.step_seconds)

    def prefill_seconds(self, prompt_tokens: float) -> float:
        speed = self.prefill_tokens_per_second
        return 0.0 if speed is None else prompt_tokens / speed

    def requests_per_second(self, prompt_tokens: float, answer_tokens: float) -> float:
        """Return the requests that a full worker finishes per second."""
        decode = self.step_seconds[-1] * answer_tokens / self.max_sequences
        return 1 / (decode + self.prefill_seconds(prompt_tokens))


def interpolated_steps(
    tokens_per_second: Mapping[int, float], max_sequences: int
) -> tuple[float, ...]:
    """Return the seconds of a decode step for 1 to `max_sequences` running requests.

    Args:
        tokens_per_second: of all running requests together, by their number. The step's time is
            linear between two numbers, and that of the nearest one beyond them.
    """
    known = sorted(tokens_per_second)
    steps = [running / tokens_per_second[running] for running in known]

    def step(running: int) -> float:
        place = bisect_left(known, running)
        if place == 0 or place == len(known):
            return steps[min(place, len(known) - 1)]
        low, high = known[place - 1], known[place]
        share = (running - low) / (high - low)
        return steps[place - 1] + share * (steps[place] - steps[place - 1])

    return tuple(step(running) for running in range(1, max_sequences + 1))


class SimulatedWorker:
    """One worker that serves requests from its creation until the simulation's end.

    Args:
        environment: of the simulation.
        speed: of this worker.
        on_room: called when the worker can take another request.
    """

    def __init__(
        self,
        environment: simpy.Environment,
        speed: WorkerSpeed,
        on_room: Callable[[], None],
    ) -> None:
        self._environment, self._speed, self._on_room = environment, speed, on_room
        self._prefills: deque[Request] = deque()
        # Of the requests that decode: the value of `_decoded_tokens` at which one has its last.
        self._ends: list[tuple[float, int, Request]] = []
        self._numbers = itertools.count()
        self._decoded_tokens = 0.0  # of a request that would have decoded since the beginning
        self._wakes_at_arrival = False
        self.idle_since = self._busy_since = environment.now
        self._busy_seconds = 0.0
        self._process = environment.process(self._run())

    @property
    def running(self) -> int:
        return len(self._prefills) + len(self._ends)

    @property
    def busy_seconds(self) -> float:
        """The seconds in which it had a request, until now."""
        current = self._environment.now - self._busy_since if self.running else 0.0
        return self._busy_seconds + current

    @property
    def has_room(self) -> bool:
        return self.running < self._speed.max_sequences

    def add(self, request: Request) -> None:
        if not self.running:
            self._busy_since = self._environment.now
        self._prefills.append(request)
        if self._wakes_at_arrival:
            self._wakes_at_arrival = False
            self._process.interrupt()

    def _run(self) -> Generator[simpy.Event, Any, None]:
        while True:
            if self._prefills:
                yield from self._prefill(self._prefills[0])
            elif self._ends:
                yield from self._decode()
            else:
                yield from self._interrupted(self._environment.event())

    def _prefill(self, request: Request) -> Generator[simpy.Event, Any, None]:
        yield self._environment.timeout(self._speed.prefill_seconds(request.prompt_tokens))
        request.first_token = self._environment.now
        self._prefills.popleft()
        end = self._decoded_tokens + request.answer_tokens
        heapq.heappush(self._ends, (end, next(self._numbers), request))

    def _decode(self) -> Generator[simpy.Event, Any, None]:
        """Decode until the first request has its last token, or another one arrives."""
        step_seconds = self._speed.step_seconds[len(self._ends) - 1]
        end, began = self._ends[0][0], self._environment.now
        seconds = max(0.0, end - self._decoded_tokens) * step_seconds
        if (yield from self._interrupted(self._environment.timeout(seconds))):
            self._decoded_tokens += (self._environment.now - began) / step_seconds
            return
        self._decoded_tokens = end
        while self._ends and self._ends[0][0] <= end:
            heapq.heappop(self._ends)[-1].finished = self._environment.now
        if not self.running:
            self.idle_since = self._environment.now
            self._busy_seconds += self.idle_since - self._busy_since
        self._on_room()

    def _interrupted(self, event: simpy.Event) -> Generator[simpy.Event, Any, bool]:
        """Wait for an event; return whether a request arrived before."""
        self._wakes_at_arrival = True
        try:
            yield event
        except simpy.Interrupt:
            return True
        self._wakes_at_arrival = False
        return False
