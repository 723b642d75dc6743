"""The queue's soak: its schedule, and that each broken invariant is seen."""

import contextlib
import itertools
import json
import subprocess
import time
from typing import get_args

import psutil
import pytest

from runpod_local import Job, JobState, running_platform
from runpod_local.faults import Kind
from runpod_local.jobs import Chunk
from tests.soak.faults import FaultInjector
from tests.soak.invariants import exit_code
from tests.soak.load import STORY, STORY_TOKENS, TEXTS, Sent
from tests.soak.outcomes import judge
from tests.soak.report import markdown
from tests.soak.resources import MIN_JUDGED_SECONDS, MIN_WARM_UP_SECONDS
from tests.soak.schedule import JOB_KINDS, LIGHT_FAULTS, RESTARTS, Event, schedule
from tests.soak.windows import Window
from tests.soak.workers import SECRETS, Clock, End, Volume
from tests.support.conditions import wait_until
from tests.support.processes import frozen

TEXT = TEXTS[0]
VOLUME_FAULTS = ("volume gone", "volume full")
ONCE, CHUNKS, LOST, EXITS, ORPHANS, LOGS, TRACEBACKS = range(7)


def test_a_seed_gives_the_same_schedule_byte_for_byte():
    assert schedule(7, 3).text() == schedule(7, 3).text()
    assert schedule(7, 3).digest == "e7079fca04e04ad0"
    assert schedule(8, 3).digest != schedule(7, 3).digest != schedule(7, 4).digest


def test_an_hour_has_every_kind_of_job_and_fault():
    events = schedule(7, 60).events
    assert {event.kind for event in events if event.what == "job"} == set(JOB_KINDS)
    kinds = {event.kind for event in events if event.what == "fault"}
    assert kinds == {*LIGHT_FAULTS, *RESTARTS}
    assert {event.volume for event in events} == {"", "there", "gone", "full"}
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert events[-1].what == "quiet"


def test_three_minutes_have_each_fault_of_the_platform_and_a_life_that_is_judged():
    """The quiet point before it waits for its worker, and the clock stands still meanwhile."""
    events = schedule(7, 3).events
    kinds = [event.kind for event in events if event.what == "fault"]
    assert set(LIGHT_FAULTS) <= set(kinds)
    restarts = [event.at for event in events if event.kind in RESTARTS]
    quiet = [event.at for event in events if event.what == "quiet" and event.at > max(restarts)]
    assert len(restarts) == 4
    assert len(quiet) == 4
    assert quiet[-1] - quiet[0] >= MIN_WARM_UP_SECONDS + MIN_JUDGED_SECONDS
    assert quiet[1] - quiet[0] >= MIN_WARM_UP_SECONDS
    assert quiet[-1] - quiet[1] >= MIN_JUDGED_SECONDS


def freezes(minutes):
    return [event.value for event in schedule(7, minutes).events if event.kind == "freeze"]


def test_only_a_long_soak_has_freezes_of_a_minute():
    assert max(freezes(29)) < 11
    assert [each for each in freezes(30) if each > 11] == [60]
    assert [each for each in freezes(60) if each > 11] == [60, 60]


def test_an_hour_has_one_worker_for_most_of_it():
    """Its memory is what the hour is for."""
    restarts = [event.at for event in schedule(7, 60).events if event.kind in RESTARTS]
    gaps = [later - at for at, later in itertools.pairwise(restarts)]
    assert max(gaps) > 2400


def chunk(text):
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def job(outputs=("one two three four ", "five six seven "), **more):
    """Return a stream that was answered; the last words are in a chunk of their own."""
    rest = TEXT.removeprefix("".join(outputs))
    chunks = [chunk(text) for text in (*outputs, rest)]
    now = time.monotonic()
    made = Job("job-1", {}, 600.0, state=JobState.COMPLETED, output=chunks)
    made.taken_at, made.finished_at = now - 1, now
    made.chunks = [Chunk(each, now, 10) for each in chunks]
    for name, value in more.items():
        setattr(made, name, value)
    return made


def values(made, windows=(), ends=(), logs=(), **more):
    sent = Sent(**{"kind": "stream", "job": made, "expected": "answer", "text": TEXT, **more})
    return [len(each.violations) for each in judge([sent], windows, ends, logs).invariants]


def test_a_stream_as_it_should_be_breaks_nothing():
    assert values(job()) == [0] * 7


LATE_POSTS = {"stream accepted, then cut": CHUNKS, "done accepted, then cut": ONCE}


@pytest.mark.parametrize(("kind", "invariant"), LATE_POSTS.items())
def test_what_was_accepted_with_its_answer_cut_may_come_twice(kind, invariant):
    made = job(late_posts=["done"])
    doubled(made)
    assert (values(made)[ONCE], values(made)[CHUNKS]) == (1, 1)
    assert values(made, [Window(kind, made.taken_at)])[invariant] == 0


class Standing:
    """The parts of a soak that a fault of the platform or the volume needs; nothing runs."""

    def __init__(self, platform, folder):
        self.platform, self.sent = platform, []
        self.clock, self.volume = Clock(folder / "clock"), Volume(folder / "volume")

    def wait_until_ready(self):
        """The worker is ready."""

    def chat(self, number, **more):
        return {}, ""


@pytest.fixture
def standing(tmp_path):
    with running_platform() as platform:
        yield Standing(platform, tmp_path)


def test_each_fault_of_a_schedule_can_be_planned(standing):
    faults = FaultInjector(standing, standing, "vllm")
    of_the_platform = [kind for kind in LIGHT_FAULTS if kind not in ("freeze", *VOLUME_FAULTS)]
    for number, kind in enumerate(of_the_platform):
        faults.apply(Event(0.0, "fault", kind, number, 1.0))
    assert [window.kind for window in faults.windows] == of_the_platform
    planned = {route: standing.platform.faults.remaining(route) for route in get_args(Kind)}
    assert planned == {"take": 10, "stop": 7, "stream": 9, "done": 9, "ping": 7}


@pytest.mark.parametrize("kind", VOLUME_FAULTS)
def test_the_volume_of_a_worker_that_runs_is_changed_and_comes_back(standing, monkeypatch, kind):
    faults = FaultInjector(standing, standing, "vllm")
    (standing.volume.path / "file").write_text("kept")
    seen = []
    monkeypatch.setattr(time, "sleep", lambda _: seen.append(standing.volume.state))
    faults.apply(Event(0.0, "fault", kind, 0, 1.0))
    faults.join()
    [(counted, _)] = faults.volumes.items()
    may_not_mount = "no right to mount" in counted
    assert seen == ["there" if may_not_mount else kind.removeprefix("volume ")]
    assert (standing.volume.path / "file").read_text() == "kept"
    assert [(window.kind, window.is_open) for window in faults.windows] == [(kind, False)]


def doubled(made):
    made.chunks.append(made.chunks[-1])


def swapped(made):
    made.chunks[0], made.chunks[1] = made.chunks[1], made.chunks[0]


@pytest.mark.parametrize("change", [doubled, swapped, lambda made: made.chunks.pop(1)])
def test_a_chunk_that_is_doubled_lost_or_out_of_order_is_seen(change):
    made = job()
    change(made)
    assert values(made)[CHUNKS] == 1


def test_a_chunk_may_come_twice_while_answers_are_lost():
    made = job()
    doubled(made)
    window = Window("stream accepted, then reset", made.taken_at)
    assert values(made, [window])[CHUNKS] == 0
    window.ended = made.taken_at - 1
    assert values(made, [window])[CHUNKS] == 1


def event(text):
    return f"data: {json.dumps(chunk(text))}\n\n"


@pytest.mark.parametrize("kind", ["stream", "openai stream", "cancel late", "core killed: job"])
@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_the_chunks_of_a_job_that_was_cut_short_are_checked(kind, state):
    make = event if kind == "openai stream" else chunk
    made = job(state=state)

    def problems(*texts):
        made.chunks = [Chunk(make(text), 0.0, 10) for text in texts]
        return values(made, kind=kind, expected="any")[CHUNKS]

    assert problems() == problems("one ") == problems("one ", "two ") == 0
    assert problems("two ") == problems("one ", "three ") == problems("one ", "one ") == 1


@pytest.mark.parametrize("rubbish", ["data: rubbish\n\n", "<html>\n\n", "data: [1\n\n"])
def test_what_is_no_event_of_a_failed_stream_is_seen(rubbish):
    made = job(state=JobState.FAILED, chunks=[Chunk(event("one "), 0.0, 10)])
    assert values(made, kind="openai stream", expected="any")[CHUNKS] == 0
    made.chunks.append(Chunk(rubbish, 0.0, 10))
    assert values(made, kind="openai stream", expected="any")[CHUNKS] == 1


FAILED = {"state": JobState.FAILED, "error": json.dumps({"error": {"code": 503}}), "chunks": []}


@pytest.mark.parametrize(
    "change",
    [
        {"state": JobState.IN_PROGRESS},
        {"state": JobState.IN_QUEUE},
        {"state": JobState.TIMED_OUT},
        {"state": JobState.CANCELLED},
        {"late_posts": ["done"]},
        {"output": [chunk("one two")], "chunks": [Chunk(chunk("one two"), 0.0, 10)]},
        FAILED,
        {**FAILED, "error": "handler: 'NoneType' object\ntraceback: …"},
    ],
    ids=lambda change: ", ".join(change),
)
def test_a_job_that_does_not_end_once_as_it_had_to_is_seen(change):
    assert values(job(**change))[ONCE] == 1


def test_a_job_may_fail_with_a_reason_while_its_worker_is_stopped():
    made = job(**FAILED)
    assert values(made, [Window("core killed", made.taken_at)])[ONCE] == 0
    assert values(made, [Window("freeze", made.taken_at)])[ONCE] == 1
    assert values(made, [Window("core killed", 0.0, made.taken_at - 1)])[ONCE] == 1
    made.error = "no reason"
    assert values(made, [Window("core killed", made.taken_at)])[ONCE] == 1


def test_a_refusal_has_the_code_that_it_had_to():
    made = job(state=JobState.FAILED, error=json.dumps({"error": {"code": 400}}), chunks=[])
    assert values(made, expected="refused", codes=(400,))[ONCE] == 0
    assert values(made, expected="refused", codes=(413,))[ONCE] == 1
    assert values(job(), expected="refused", codes=(400,))[ONCE] == 1


def test_a_job_that_was_lost_with_its_worker_is_seen():
    made = job(state=JobState.CANCELLED)
    end = End("worker-1", 5, (5,), "core killed", 10.0, lost=[made.id])
    assert values(made, ends=[end]) == [0, 0, 1, 0, 0, 0, 0]


def test_a_wrong_exit_code_and_an_orphan_are_seen():
    end = End("worker-1", 1, (0,), "SIGTERM when idle", 10.0, orphans=["17 sleep 600"])
    assert values(job(), ends=[end]) == [0, 0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    "line", [*SECRETS.values(), "got 'Count, please. soakprompt17'", f"answer: {TEXT}"]
)
def test_a_secret_a_prompt_and_an_answer_in_a_log_are_seen(tmp_path, line):
    log = tmp_path / "worker-1.log"
    log.write_text("ready\n")
    assert values(job(), logs=[log])[LOGS] == 0
    log.write_text(f"ready\n{line}\n")
    assert values(job(), logs=[log])[LOGS] == 1


def test_a_traceback_of_the_worker_is_seen(tmp_path):
    log = tmp_path / "worker-1.log"
    log.write_text("(EngineCore pid=7) ERROR Traceback (most recent call last):\n")
    assert values(job(), logs=[log])[TRACEBACKS] == 0
    log.write_text("Traceback (most recent call last):\n")
    assert values(job(), logs=[log])[TRACEBACKS] == 1


def test_an_invariant_that_is_broken_or_not_judged_fails_the_report():
    unfinished = job(state=JobState.IN_PROGRESS, chunks=[])
    outcomes = judge([Sent("stream", unfinished, "answer", TEXT)], [], [], [])
    figures = {
        **dict.fromkeys(("engine", "device", "mode", "digest"), "x"),
        **dict.fromkeys(("minutes", "seed", "seconds"), 1),
        "invariants": [each.figures() for each in outcomes.invariants],
    }
    assert exit_code(figures) == 1
    assert "not as they had to | 1 | **broken** |" in markdown(figures)
    figures["invariants"].pop(ONCE)
    assert exit_code(figures) == 3
    assert "chunk lost, doubled or out of order | 0 | **not judged** |" in markdown(figures)
    figures["invariants"].pop(0)
    assert exit_code(figures) == 0


def test_a_freeze_ends_also_when_the_soak_fails_in_it():
    with subprocess.Popen(["sleep", "1000"]) as process:
        frozen_one = psutil.Process(process.pid)
        try:
            with contextlib.suppress(TimeoutError), frozen([frozen_one]):
                wait_until(lambda: frozen_one.status() == psutil.STATUS_STOPPED)
                raise TimeoutError
            wait_until(lambda: frozen_one.status() == psutil.STATUS_SLEEPING)
        finally:
            process.kill()


def test_equal_chunks_of_a_story_are_one_that_was_sent_twice():
    words = STORY.split()
    assert len(words) == STORY_TOKENS
    assert [
        words[at : at + size]
        for size in range(1, len(words) // 2 + 1)
        for at in range(len(words) - 2 * size + 1)
        if words[at : at + size] == words[at + size : at + 2 * size]
    ] == []
