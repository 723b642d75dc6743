"""The faults of a soak, applied to the platform and to the worker's processes."""

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import get_args

from runpod_local import Job, JobState
from runpod_local.faults import Kind
from tests.soak.load import ANSWER, CUT_SHORT, Load, Sent
from tests.soak.schedule import RESTARTS, Event
from tests.soak.windows import Window
from tests.soak.workers import STOP_SECONDS, Workers
from tests.support.conditions import wait_until
from tests.support.environment import START_SECONDS
from tests.support.processes import arguments, catches, frozen

CORES = {"vllm": "EngineCore", "sglang": "scheduler"}  # in the names of the processes
GARBAGE = (
    b"[null]",
    b'[{"input": {"prompt": "a"}}]',
    b"[1, [2]]",
    b'"x"',
    b'[{"id": "a", "inp',
    b'[{"id": "../a", "input": {}}]',
    b"<html>502 Bad Gateway</html>",
    b'[{"id": "a", "input": "\xff"}]',
)
STOP_GARBAGE = (
    b"[null]",
    b'{"jobsToStop": [null, 1, {}]}',
    b"<html>",
    b'{"jobsToStop": "a"}',
    b"{",
)
STATE_SECONDS = START_SECONDS  # until the worker is in the state in which a fault comes
FREEZE_MARGIN_SECONDS = 5.0
RESEND_MARGIN_SECONDS = 2.0
PREFILL_WORDS = 3000


class FaultInjector:
    """Applies the faults of a schedule."""

    def __init__(self, workers: Workers, load: Load, engine: str) -> None:
        self.windows: list[Window] = []
        self.skipped: Counter[str] = Counter()
        self.volumes: Counter[str] = Counter()
        self._workers, self._load, self._engine = workers, load, engine
        self._platform = workers.platform
        self._busy = threading.Lock()  # one fault of the worker's processes at a time
        self._threads: list[threading.Thread] = []

    def end_windows(self) -> None:
        """Note which planned faults have happened."""
        for window in self.windows:
            route = window.kind.split(" ")[0]
            is_planned = route in get_args(Kind)
            if window.is_open and is_planned and not self._platform.faults.remaining(route):
                window.ended = time.monotonic() + RESEND_MARGIN_SECONDS

    def apply(self, event: Event) -> None:
        """Apply a fault; one of the worker's processes goes on in a thread of its own."""
        if event.kind in RESTARTS or event.kind.split(" ")[0] in ("freeze", "volume"):
            thread = threading.Thread(target=self._on_processes, args=(event,), daemon=True)
            self._threads.append(thread)
            thread.start()
            return
        self._on_platform(event)

    def join(self) -> None:
        """Wait until the faults of the worker's processes are over, and it is ready again."""
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._workers.wait_until_ready()

    def _on_platform(self, event: Event) -> None:
        faults = self._platform.faults
        began = time.monotonic()
        route, _, what = event.kind.partition(" ")
        if event.kind == "clock jump":
            self._workers.clock.set(event.value)
        elif event.kind == "duplicate id":
            self._duplicate(event)
        elif event.kind == "stop late":
            ended = [sent.job.id for sent in self._load.sent[-50:] if sent.job.finished]
            body = json.dumps({"jobsToStop": [*ended[-2:], f"unknown-{event.number}"]})
            faults.answer("stop", body.encode())
        elif event.kind == "stop garbage":
            faults.answer("stop", STOP_GARBAGE[event.number % len(STOP_GARBAGE)])
        elif what == "garbage":
            faults.answer("take", GARBAGE[event.number % len(GARBAGE)])
        elif what in ("500", "429"):
            faults.fail(route, status=int(what), times=2)
        elif what == "slow":
            faults.delay(route, event.value, times=2)
        elif what == "reset":
            faults.drop(route)
        elif what == "cut":
            faults.cut(route, b'[{"id": "lost", "input": {"prompt": "a"}}]')
        elif what == "accepted, then reset":
            faults.lose(route)
        elif what == "accepted, then cut":
            faults.cut(route, b'{"status": "accepted"}', is_answered=True)
        else:
            raise ValueError(f"no such fault: {event.kind}")
        if route in ("take", "stop", "duplicate"):
            self._platform.release_polls()  # the next polls meet the fault
        self.windows.append(Window(event.kind, began))

    def _duplicate(self, event: Event) -> None:
        """One job twice in one answer, and a third time in the next one."""
        chat, text = self._load.chat(event.number, stream=True)
        # Which worker takes it is seen at its poll, which may be the next worker's.
        job = self._platform.state.submit_taken(f"duplicate-{event.number}", "unknown")
        item = {"id": job.id, "input": chat}
        self._platform.faults.answer("take", json.dumps([item, item]).encode())
        self._load.sent.append(Sent("duplicate id", job, ANSWER, text))

    def _on_processes(self, event: Event) -> None:
        with self._busy:
            try:
                self._workers.wait_until_ready()
                if event.kind == "freeze":
                    self._freeze(event.value)
                elif event.kind.startswith("volume "):
                    self._change_volume(event)
                else:
                    self._restart(event)
            except TimeoutError as error:
                self.skipped[f"{event.kind}: {error}"] += 1
            finally:
                for window in self.windows:
                    if window.kind in RESTARTS and window.is_open:
                        window.ended = time.monotonic()

    def _freeze(self, seconds: float) -> None:
        window = Window("freeze", time.monotonic())
        self.windows.append(window)
        with frozen(self._workers.family()):
            time.sleep(seconds)
        window.ended = time.monotonic() + FREEZE_MARGIN_SECONDS

    def _change_volume(self, event: Event) -> None:
        """Take the volume from a worker that runs, or fill it, for some seconds."""
        window = Window(event.kind, time.monotonic())
        self.windows.append(window)
        volume = self._workers.volume
        try:
            state = volume.become(event.kind.removeprefix("volume "))
            self.volumes[f"{state}, under a worker"] += 1
            time.sleep(event.value)
        finally:
            volume.become("there")
        window.ended = time.monotonic()

    def _restart(self, event: Event) -> None:
        """End the worker in some state; the next one starts on another volume."""
        worker, ends = self._workers, len(self._workers.ends)
        # A result that met several in a row could outlast the worker's last seconds.
        wait_until(lambda: not self._platform.faults.remaining("done"), STATE_SECONDS)
        if event.kind in ("SIGTERM in a stream", "SIGTERM in a drain", "core killed"):
            # The fixed answers are over in a moment.
            self._send_and_wait(
                event.kind, *self._load.story(event.number), until=lambda job: job.chunks
            )
        elif event.kind == "SIGTERM in a prefill":
            prompt = f"soakprompt{event.number}" + " word" * PREFILL_WORDS
            self._send_and_wait(
                event.kind,
                {"prompt": prompt, "max_tokens": 8},
                until=lambda job: job.state is not JobState.IN_QUEUE,
            )
        self.volumes[f"{worker.volume.become(event.volume)}, at a restart"] += 1
        window = Window(event.kind, time.monotonic())
        self.windows.append(window)
        if event.kind == "core killed":
            cores = [each for each in worker.family() if CORES[self._engine] in arguments(each)]
            worker.expect((5,), event.kind)
            cores[0].kill()
        else:
            # A second signal that comes after the drain ends the worker as it does any process.
            worker.expect((0, 143) if event.kind == "SIGTERM in a drain" else (0,), event.kind)
            process = worker.process
            process.send_signal(signal.SIGTERM)
            if event.kind == "SIGTERM in a drain":
                time.sleep(min(event.value, 2.0))
                process.send_signal(signal.SIGTERM)
        wait_until(lambda: len(worker.ends) > ends, STOP_SECONDS)
        window.ended = time.monotonic()
        if event.kind == "SIGTERM at the start":
            wait_until(worker.started.is_set, STOP_SECONDS)
            time.sleep(event.value)
            wait_until(lambda: catches(worker.process.pid, signal.SIGTERM), STOP_SECONDS)
            seen = self._platform.workers.get(worker.id)
            worker.expect((0,) if seen and seen.ready else (143,), event.kind)
            worker.process.send_signal(signal.SIGTERM)
            wait_until(lambda: len(worker.ends) > ends + 1, STOP_SECONDS)
            window.ended = time.monotonic()
        worker.wait_until_ready(START_SECONDS)
        worker.volume.become("there")

    def _send_and_wait(
        self, kind: str, job_input: object, text: str = "", *, until: Callable[[Job], object]
    ) -> None:
        """Send a job whose end the fault decides, and wait until it is in its state."""
        job = self._platform.job(self._platform.submit(job_input))
        self._load.sent.append(Sent(kind + CUT_SHORT, job, "any", text))
        self._platform.wait_until(job.id, until, STATE_SECONDS)
