"""The engine's own thread and event loop, from start to stop.

The engine does not share a loop with the Runpod SDK: the SDK runs `asyncio.run` several times, and
SGLang started on the main thread installs signal handlers that kill the process. This module does
not know which engine it hosts.
"""

import asyncio
import contextlib
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import uvloop
from pydantic import ValidationError

from handler.engine.asgi_call import ABORT_GRACE_SECONDS, AsgiCall
from handler.engine.interface import EngineAdapter, EngineRequest, RunningEngine
from handler.engine.pacing import Pacer
from handler.errors import (
    EngineStartFailed,
    EngineUnavailable,
    InvalidSetting,
    StartError,
    one_line,
)
from handler.startup.timings import StartupTimings

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
STOP_SECONDS = 10.0
LOOK_SECONDS = 0.1
DEATH_NOTICE_SECONDS = 1.0


class EngineRuntime:
    """Runs one adapter on a thread of its own.

    Args:
        adapter: of the engine.
        pacer: says how long a stream's deltas are merged.
        stages: takes those of the engine's start.

    Use as `with EngineRuntime(adapter) as host:`; leaving it stops the engine: asks, waits at most
    `STOP_SECONDS`, then kills what is left of the engine's processes.
    """

    def __init__(
        self,
        adapter: EngineAdapter,
        pacer: Pacer | None = None,
        stages: StartupTimings | None = None,
    ) -> None:
        self._adapter = adapter
        self.pacer = pacer or Pacer()
        self._stages = stages or StartupTimings(time.time())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._may_launch = threading.Event()
        self._launched = threading.Event()
        self._up = threading.Event()
        self._failure: Exception | None = None
        self._exchanges: set[AsgiCall] = set()
        self._on_death: list[Callable[[], None]] = []
        self._own_children: set[int] = set()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self.running: RunningEngine | None = None
        self.dead = False
        self._ending = False
        self._launching = self._stopped = False

    def __enter__(self) -> "EngineRuntime":
        self._own_children = {child.pid for child in psutil.Process().children()}
        self._adapter.prepare()
        os.register_at_fork(after_in_parent=self._launched.set)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def launch(self) -> None:
        """Let the engine's processes start, once it is imported and its flags are right.

        Block until this process may do other work beside that.
        """
        self._may_launch.set()
        self._launched.wait()

    def wait_until_up(self) -> RunningEngine:
        """Block until the engine serves. A signal's handler may interrupt it by raising.

        Raises:
            StartError: why it does not.
        """
        self._may_launch.set()
        self._up.wait()
        if self.running is None:
            raise self._failure or EngineStartFailed("The engine stopped while it started.")
        return self.running

    def open(self, request: EngineRequest) -> AsgiCall:
        """Return an exchange for one request, to be entered on any loop, or closed.

        Raises:
            EngineUnavailable: the engine is dead, or being stopped.
        """
        if self.dead or self.running is None or self._loop is None:
            raise EngineUnavailable("The engine is not running; the worker is being replaced.")
        if self._ending:
            raise EngineUnavailable("The worker is being stopped.")
        grace_seconds = ABORT_GRACE_SECONDS if self.running.listens else 0.0
        exchange = AsgiCall(
            self.running.app, self._loop, request, grace_seconds, self._exchanges.discard
        )
        self._exchanges.add(exchange)
        return exchange

    @property
    def serves(self) -> bool:
        """Whether another request may be answered: the engine lives, and is not being stopped."""
        running = self.running
        return not (self.dead or self._ending) and running is not None and running.alive()

    def on_death(self, notify: Callable[[], None]) -> None:
        """Have `notify` called once, on the engine's thread, when the engine dies by itself."""
        self._on_death.append(notify)

    def fail_requests(self, reason: str) -> None:
        """End every open exchange with `EngineUnavailable(reason)`: the end. From any thread."""
        self._ending = True
        for exchange in list(self._exchanges):
            exchange.fail(EngineUnavailable(reason))

    def stop(self) -> None:
        """Stop the engine and leave no process of it behind. Safe to call twice."""
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop.set)
        self._stopped = True
        until = time.monotonic() + STOP_SECONDS
        if self.running is not None:
            self._thread.join(STOP_SECONDS)
        # One that is being launched may start further processes while others are killed.
        while self._launching and self._thread.is_alive() and time.monotonic() < until:
            self._kill_children()
            self._thread.join(LOOK_SECONDS)
        self._kill_children()

    # ---- the engine's thread ----

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except (Exception, SystemExit) as error:  # an engine may end its process by itself
            self._failure = error if isinstance(error, StartError) else _failed(error)
        finally:
            self._launched.set()
            self._up.set()
            self._notice_end()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            with self._stages.stage("imports"), _without_collections():
                self._adapter.check()
            self._may_launch.wait()
            if not self._adapter.forks:
                self._launched.set()
            began = time.time()
            self._launching = True
            if self._stopped:  # `stop` sets this before it looks at the other
                raise EngineStartFailed("The engine was stopped before it started.")
            async with self._adapter.running(self.pacer) as running:
                self._launching = False
                self._stages.since(began, "engine")
                self._stages.add(*running.stages)
                self.running = running
                self._launched.set()
                self._up.set()
                await self._watch(running, self._stop)
                self.fail_requests("The worker is being stopped.")
        except StartError:
            raise
        except ValidationError as error:  # the engine's configuration, judged as a whole
            raise InvalidSetting(
                f"The engine refuses its settings: {_complaints(error)}"
            ) from error
        except Exception as error:
            if self.running is not None:
                log.warning("the engine did not stop in order: %r", error)
                return
            log.debug("the engine did not start", exc_info=error)
            raise _failed(error) from error

    def _notice_end(self) -> None:
        """Tell everybody where the loop has ended and nobody had asked for it."""
        asked = self._stop is None or self._stop.is_set()
        if self.running is None or asked or self.dead:
            return
        self.dead = True
        log.error("the engine's loop ended by itself: %r", self._failure)
        self.fail_requests("The engine died; the worker is being replaced.")
        for notify in self._on_death:
            notify()

    async def _watch(self, running: RunningEngine, stop: asyncio.Event) -> None:
        """Wait for the stop, or for the engine's death, which is told to everybody."""
        while not stop.is_set():
            if not running.alive():
                self.dead = True
                log.error("the engine died")
                # The engine's own error events for what runs are more precise: let them out first.
                await asyncio.sleep(DEATH_NOTICE_SECONDS)
                self.fail_requests("The engine died; the worker is being replaced.")
                for notify in self._on_death:
                    notify()
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), WATCH_SECONDS)

    def _kill_children(self) -> None:
        """Kill what is left of the engine's processes, none of the worker's other children."""
        left = [
            process
            for child in psutil.Process().children()
            if child.pid not in self._own_children
            for process in (child, *_descendants(child))
        ]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=STOP_SECONDS)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Import without looking for garbage, which takes a fifth of the time and finds none.

    What there is afterwards stays, and no later collection looks at it, a fork's neither.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _failed(error: BaseException) -> EngineStartFailed:
    """Say what the innermost error says: the outer ones say only that something failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return EngineStartFailed(f"The engine did not start: {one_line(str(error)) or repr(error)}")


def _complaints(error: ValidationError) -> str:
    """Name each setting that the engine's configuration refuses, its value, and why."""
    texts = []
    for problem in error.errors(include_url=False):
        reason = one_line(problem["msg"].removeprefix("Value error, "))
        where = str(problem["loc"][-1]).upper() if problem["loc"] else ""
        value = problem["input"]
        named = f"{where}={value!r}: " if where and isinstance(value, str | int | float) else ""
        texts.append(named + reason)
    return "; ".join(dict.fromkeys(texts))
