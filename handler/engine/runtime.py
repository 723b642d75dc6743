"""The engine's own thread and event loop, from start to stop.

The engine does not share a loop with the Runpod SDK: the SDK runs `asyncio.run` several times, and
SGLang started on the main thread installs signal handlers that kill the process.
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

WATCH_INTERVAL_SECONDS = 0.5
STOP_GRACE_SECONDS = 10.0
POLL_INTERVAL_SECONDS = 0.1
LAST_EVENTS_GRACE_SECONDS = 1.0  # after the engine's death, for its own error events
ENGINE_DIED = "The engine died; the worker is being replaced."
NOT_RUNNING = "The engine is not running; the worker is being replaced."
STOPPING = "The worker is being stopped."


class EngineRuntime:
    """Runs one engine on a thread of its own.

    Args:
        adapter: the engine.
        pacer: how long the tokens of a stream are merged.
        timings: records the stages of the engine's start.

    Use as `with EngineRuntime(adapter) as runtime:`; leaving it asks the engine to stop, waits at
    most `STOP_GRACE_SECONDS`, then kills what is left of its processes.

    Attributes:
        running: the engine, None until it is up.
        dead: whether it ended without being stopped.
    """

    def __init__(
        self,
        adapter: EngineAdapter,
        pacer: Pacer | None = None,
        timings: StartupTimings | None = None,
    ) -> None:
        self._adapter = adapter
        self.pacer = pacer or Pacer()
        self._timings = timings or StartupTimings(time.time())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._may_launch = threading.Event()
        self._launched = threading.Event()
        self._up = threading.Event()
        self._failure: Exception | None = None
        self._calls: set[AsgiCall] = set()
        self._on_death: list[Callable[[], None]] = []
        self._other_children: set[int] = set()
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self.running: RunningEngine | None = None
        self.dead = False
        self._ending = False
        self._launching = self._stopped = False
        self._forks_left = 0

    def __enter__(self) -> "EngineRuntime":
        self._other_children = {child.pid for child in psutil.Process().children()}
        self._adapter.prepare()
        os.register_at_fork(after_in_parent=self._count_fork)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def launch(self) -> None:
        """Let the engine start its processes, once it is imported and its flags are checked.

        Blocks until other threads of this process may work, see `EngineAdapter.forks`.
        """
        self._may_launch.set()
        self._launched.wait()

    def wait_until_up(self) -> RunningEngine:
        """Block until the engine serves. A signal handler may interrupt it by raising.

        Raises:
            StartError: the engine did not start.
        """
        self._may_launch.set()
        self._up.wait()
        if self.running is None:
            raise self._failure or EngineStartFailed("The engine stopped during its start.")
        return self.running

    def prepare_call(self, request: EngineRequest) -> AsgiCall:
        """Return the call of one request; the caller enters it on any loop, or closes it.

        Raises:
            EngineUnavailable: the engine is dead, or being stopped.
        """
        if self.dead or self.running is None or self._loop is None:
            raise EngineUnavailable(NOT_RUNNING)
        if self._ending:
            raise EngineUnavailable(STOPPING)
        grace_seconds = ABORT_GRACE_SECONDS if self.running.aborts_on_disconnect else 0.0
        call = AsgiCall(
            app=self.running.app,
            loop=self._loop,
            request=request,
            grace_seconds=grace_seconds,
            on_close=self._calls.discard,
        )
        self._calls.add(call)
        return call

    @property
    def is_serving(self) -> bool:
        """Whether the engine runs and is not being stopped."""
        running = self.running
        return not (self.dead or self._ending) and running is not None and running.alive()

    def on_death(self, notify: Callable[[], None]) -> None:
        """Call `notify` once, on the engine's thread, when the engine dies."""
        self._on_death.append(notify)

    def fail_requests(self, reason: str) -> None:
        """Fail every open request with `EngineUnavailable`, and accept no more. Thread-safe."""
        self._ending = True
        for call in list(self._calls):
            call.fail(EngineUnavailable(reason))

    def stop(self) -> None:
        """Stop the engine and end all of its processes. May be called twice."""
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop.set)
        self._stopped = True
        until = time.monotonic() + STOP_GRACE_SECONDS
        try:
            if self.running is not None:
                self._thread.join(STOP_GRACE_SECONDS)
            # An engine that is being launched may start more processes while others are killed.
            while self._launching and self._thread.is_alive() and time.monotonic() < until:
                self._kill_children()
                self._thread.join(POLL_INTERVAL_SECONDS)
        finally:  # also if a signal handler raises
            self._kill_children()

    # ---- the engine's thread ----

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except (Exception, SystemExit) as error:  # an engine may call sys.exit
            self._failure = error if isinstance(error, StartError) else _failed(error)
        finally:
            self._launched.set()
            self._up.set()
            self._report_unexpected_end()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            with self._timings.stage("imports"), _garbage_collection_off():
                self._adapter.check_flags()
            self._may_launch.wait()
            self._forks_left = self._adapter.forks
            if not self._forks_left:
                self._launched.set()
            began = time.time()
            self._launching = True
            if self._stopped:  # `stop` sets this before it reads `_launching`
                raise EngineStartFailed("The engine was stopped before it started.")
            async with self._adapter.start(self.pacer) as running:
                self._launching = False
                self._timings.since(began, "engine")
                self._timings.add(*running.stages)
                self.running = running
                self._launched.set()
                self._up.set()
                await self._watch(running, self._stop)
                self.fail_requests(STOPPING)
        except StartError:
            raise
        except ValidationError as error:  # of the engine's configuration as a whole
            raise InvalidSetting(
                f"The engine refuses its settings: {_complaints(error)}"
            ) from error
        except Exception as error:
            if self.running is not None:
                log.warning("the engine did not stop cleanly: %r", error)
                return
            log.debug("the engine did not start", exc_info=error)
            raise _failed(error) from error

    def _count_fork(self) -> None:
        self._forks_left -= 1
        if not self._forks_left:
            self._launched.set()

    def _report_unexpected_end(self) -> None:
        """Report the engine's death if its loop ended unexpectedly."""
        asked = self._stop is None or self._stop.is_set()
        if self.running is None or asked or self.dead:
            return
        self.dead = True
        log.error("the engine's loop ended unexpectedly: %r", self._failure)
        self.fail_requests(ENGINE_DIED)
        for notify in self._on_death:
            notify()

    async def _watch(self, running: RunningEngine, stop: asyncio.Event) -> None:
        """Wait for the stop, or for the engine's death, and report the death."""
        while not stop.is_set():
            if not running.alive():
                self.dead = True
                log.error("the engine died")
                # The engine's own error events say more precisely what happened.
                await asyncio.sleep(LAST_EVENTS_GRACE_SECONDS)
                self.fail_requests(ENGINE_DIED)
                for notify in self._on_death:
                    notify()
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), WATCH_INTERVAL_SECONDS)

    def _kill_children(self) -> None:
        """Kill what is left of the engine's processes, and no other child of the worker."""
        left = [
            process
            for child in psutil.Process().children()
            if child.pid not in self._other_children
            for process in (child, *_descendants(child))
        ]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=STOP_GRACE_SECONDS)


@contextlib.contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Turn off garbage collection during imports, where it takes a fifth of the time.

    Objects created inside are excluded from later collections, also in a fork.
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
    """Return the start's error with the text of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return EngineStartFailed(f"The engine did not start: {one_line(str(error)) or repr(error)}")


def _complaints(error: ValidationError) -> str:
    """Return each setting that the engine's configuration refuses, its value and the reason."""
    texts = []
    for problem in error.errors(include_url=False):
        reason = one_line(problem["msg"].removeprefix("Value error, "))
        where = str(problem["loc"][-1]).upper() if problem["loc"] else ""
        value = problem["input"]
        named = f"{where}={value!r}: " if where and isinstance(value, str | int | float) else ""
        texts.append(named + reason)
    return "; ".join(dict.fromkeys(texts))
