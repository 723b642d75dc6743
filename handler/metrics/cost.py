"""What the worker's time costs, and each request's share of it.

At each moment the requests that the engine has share the worker's price equally. So the shares of
all requests together are the price of the time in which the worker was busy; what it costs while it
starts and while it is idle is nobody's.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from handler.engine.awake_clock import awake_clock
from handler.gpu_pools import HOUR_SECONDS, load_gpu_table
from handler.settings.fields import Settings
from handler.startup.gpus import Gpu

log = logging.getLogger(__name__)


def dollars_per_second(settings: Settings, gpus: Sequence[Gpu]) -> float | None:
    """Return PRICE_PER_SECOND, or what the GPUs cost on Runpod; None where neither is known.

    Args:
        gpus: all that the worker sees, of one kind.
    """
    if settings.price_per_second is not None:
        return settings.price_per_second
    if not (settings.endpoint_id or settings.worker_id) or not gpus or gpus[0].is_mig_slice:
        return None
    table = load_gpu_table()
    pool = table.pool_of_device(gpus[0].name)
    if pool is None:
        return None
    hour = pool.flex_dollars_per_hour if settings.endpoint_id else pool.pod_dollars_per_hour
    if hour is None:
        return None
    price = hour / HOUR_SECONDS * len(gpus)
    log.info(
        "a second costs $%.6f: %d × %s on %s, prices of %s (PRICE_PER_SECOND sets another)",
        price,
        len(gpus),
        gpus[0].name,
        "a serverless worker" if settings.endpoint_id else "a Pod",
        table.date,
    )
    return price


class CostMeter:
    """Divides the worker's time among its requests, and counts what it did.

    Args:
        dollars_per_second: the worker's price, None where it is not known.
        start_seconds: that the start has taken.
        clock: the time for which the worker is paid, in seconds.

    Attributes:
        dollars_per_second: the worker's price.
    """

    def __init__(
        self,
        dollars_per_second: float | None,
        start_seconds: float,
        clock: Callable[[], float] = awake_clock.now,
    ) -> None:
        self.dollars_per_second = dollars_per_second
        self._clock = clock
        self._start_seconds = start_seconds
        self._began = self._changed = clock()
        self._running = 0
        self._busy_seconds = 0.0
        self._share_seconds = 0.0  # of a request that has been here all the time
        self._lock = threading.Lock()  # a scrape is on another thread than the requests

    def begin(self) -> "CostShare":
        """Begin the share of a request that the engine gets now."""
        with self._lock:
            self._advance()
            self._running += 1
            return CostShare(self, self._share_seconds)

    def end(self, share_began: float) -> float:
        """End a share; return its seconds of the whole worker."""
        with self._lock:
            self._advance()
            self._running -= 1
            return self._share_seconds - share_began

    def seconds_by_state(self) -> Mapping[str, float]:
        """Return how long the worker was in each state; no value ever goes back."""
        with self._lock:
            self._advance()
            awake = self._changed - self._began
            return {
                "start": self._start_seconds,
                "busy": self._busy_seconds,
                "idle": awake - self._busy_seconds,
            }

    def gauges(self) -> dict[str, float | Mapping[str, float]]:
        """Return the values of the cost's metrics; those in dollars only with a price."""
        seconds = self.seconds_by_state()
        found: dict[str, float | Mapping[str, float]] = {"state_seconds_total": {**seconds}}
        if (price := self.dollars_per_second) is not None:
            found["dollars_per_second"] = price
            found["dollars_total"] = {state: price * each for state, each in seconds.items()}
            if running := self._running:
                found["request_dollars_per_second"] = price / running
        return found

    def _advance(self) -> None:
        now = max(self._clock(), self._changed)
        if self._running:
            self._busy_seconds += now - self._changed
            self._share_seconds += (now - self._changed) / self._running
        self._changed = now


class CostShare:
    """A request's share of the worker's time."""

    def __init__(self, meter: CostMeter, began: float) -> None:
        self._meter, self._began = meter, began

    def end(self) -> float | None:
        """Return the dollars of the share, None without a price; call it once."""
        seconds, price = self._meter.end(self._began), self._meter.dollars_per_second
        return None if price is None else seconds * price
