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
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future

import psutil
import uvloop

from handler.engine.call.asgi_call import ABORT_GRACE_SECONDS, AsgiCall
from handler.engine.failed_start.error import reported_error, start_error
from handler.engine.failed_start.report import FailureReport
from handler.engine.failed_start.second_start import values
from handler.engine.failed_start.smaller_configuration import LARGER
from handler.engine.interface import EngineAdapter, EngineRequest, LoweredSetting, RunningEngine
from handler.engine.pacing import Pacer
from handler.engine.processes import kill_children
from handler.errors import EngineStartFailed, EngineUnavailable, StartError
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
        import_engine: imports the engine, with the variables that its modules read.
        pacer: how long the tokens of a stream are merged.
        timings: records the stages of the engine's start.
        lowered: the settings that a second start has lowered.

    Use as `with EngineRuntime(import_engine) as runtime:`, and give it the adapter with
    `check_flags`; leaving it asks the engine to stop, waits at most `STOP_GRACE_SECONDS`, then
    kills what is left of its processes.

    Attributes:
        running: the engine, None until it is up.
        dead: whether it ended without being stopped.
        lowered: the values of the settings that a second start, or the check before a start, has
            lowered.
    """

    def __init__(
        self,
        import_engine: Callable[[], None],
        pacer: Pacer | None = None,
        timings: StartupTimings | None = None,
        lowered: tuple[LoweredSetting, ...] = (),
    ) -> None:
        self._import_engine = import_engine
        self._adapter: Future[EngineAdapter] = Future()
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
        self._lowered = lowered
        self.lowered: Mapping[str, float] = {}
        self._ending = False
        self._importing = self._launching = self._stopped = False
        self._forks_left = 0

    def __enter__(self) -> "EngineRuntime":
        self._other_children = {child.pid for child in psutil.Process().children()}
        os.register_at_fork(after_in_parent=self._count_fork)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def begin_import(self) -> None:
        """Import the engine on its thread from now on, beside what this one does."""
        if self._thread.ident is None:
            self._thread.start()

    def check_flags(self, adapter: EngineAdapter) -> None:
        """Have the adapter check the flags, on the engine's thread, once the engine is imported.

        Call it on the main thread.
        """
        adapter.prepare()
        self._adapter.set_result(adapter)
        self.begin_import()

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
        grace_seconds = ABORT_GRACE_SECONDS if self.running.aborts_on_disconnect else 0.0
        call = AsgiCall(
            app=self.running.app,
            loop=self._loop,
            request=request,
            grace_seconds=grace_seconds,
            on_close=self._calls.discard,
        )
        self._calls.add(call)
        if self._ending:  # not earlier: `fail_requests` fails the calls that it sees
            call.close()
            raise EngineUnavailable(STOPPING)
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
        self._adapter.cancel()
        if self._importing and self._thread.is_alive():
            # The import cannot be stopped, and the process ends without waiting for it: what it
            # logs must not follow the reason of the end.
            logging.captureWarnings(True)
            logging.disable()
            self._thread.join(POLL_INTERVAL_SECONDS)  # it may be in the middle of a line
        until = time.monotonic() + STOP_GRACE_SECONDS
        try:
            if self.running is not None:
                self._thread.join(STOP_GRACE_SECONDS)
            # An engine that is being launched may start more processes while others are killed.
            while self._launching and self._thread.is_alive() and time.monotonic() < until:
                kill_children(self._other_children, STOP_GRACE_SECONDS)
                self._thread.join(POLL_INTERVAL_SECONDS)
        finally:  # also if a signal handler raises
            kill_children(self._other_children, STOP_GRACE_SECONDS)

    # ---- the engine's thread ----

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except (Exception, SystemExit) as error:  # an engine may call sys.exit
            self._failure = start_error(error)
        finally:
            self._launched.set()
            self._up.set()
            self._report_unexpected_end()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        adapter = self._checked_adapter()
        self._may_launch.wait()
        self._forks_left = adapter.forks
        if not self._forks_left:
            self._launched.set()
        began = time.time()
        self._launching = True
        if self._stopped:  # `stop` sets this before it reads `_launching`
            raise EngineStartFailed("The engine was stopped before it started.")
        try:
            async with self._started(adapter) as running:
                self._launching = False
                self._timings.since(began, "engine")
                self._timings.add(*running.stages)
                self._note_lowered(running)
                self.running = running
                self._launched.set()
                self._up.set()
                await self._watch(running, self._stop)
                self.fail_requests(STOPPING)
        except StartError:
            raise
        except Exception as error:
            if self.running is None:
                raise
            log.warning("the engine did not stop cleanly: %r", error)

    def _checked_adapter(self) -> EngineAdapter:
        """Import the engine, then have the adapter check the flags."""
        with _garbage_collection_off():
            self._importing = True
            with self._timings.stage("imports", beside=not self._adapter.done()):
                self._import_engine()
            self._importing = False
            adapter = self._adapter.result()
            with self._timings.stage("flags"):
                adapter.check_flags()
        return adapter

    @contextlib.asynccontextmanager
    async def _started(self, adapter: EngineAdapter) -> AsyncIterator[RunningEngine]:
        """Start the engine; leaving it stops it.

        Raises:
            EngineStartFailed: one of the engine's processes has failed; the text is its own cause.
        """
        async with contextlib.AsyncExitStack() as stack:
            with FailureReport() as report:
                try:
                    running = await stack.enter_async_context(adapter.start(self.pacer))
                except Exception as error:
                    if (failure := report.read()) is None:
                        raise
                    log.debug("the engine did not start", exc_info=error)
                    raise reported_error(failure, adapter.configuration, self._lowered) from error
            yield running

    def _note_lowered(self, running: RunningEngine) -> None:
        tokens = running.capacity.max_model_tokens
        self.lowered = values((*self._lowered, *running.lowered), tokens)
        if self._lowered:
            settings = values(self._lowered, tokens).items()
            log.warning(
                "the second start has succeeded: set %s to start once, or %s",
                *(" ".join(f"{name}={value}" for name, value in settings), LARGER),
            )

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
