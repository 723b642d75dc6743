"""What became of the jobs of a soak, and the invariants that must hold."""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runpod_local import Job, JobState
from tests.soak.invariants import Invariant
from tests.soak.load import (
    ANSWER,
    CUT_SHORT,
    MARKER,
    TEXTS,
    Sent,
    answer_text,
    begun_text,
    error_code,
)
from tests.soak.schedule import RESTARTS
from tests.soak.windows import Window
from tests.soak.workers import SECRETS, WORKER_KEY, End

STOPPED = 503  # the code of a job that a stopped or dead worker fails
# After these a chunk, or a job's end, may come twice.
RESENT = ("stream accepted, then reset", "stream accepted, then cut", "freeze")
RESENT_END = ("done accepted, then reset", "done accepted, then cut", "freeze")
STREAMS = ("stream", "openai stream", "duplicate id", "cancel early", "cancel late")


@dataclass
class Outcomes:
    """Jobs by kind and outcome, and the invariants."""

    jobs: dict[str, Counter[str]]
    chunks_checked: int
    chunks_repeated: int
    invariants: list[Invariant]


def judge(
    sent: Iterable[Sent], windows: Sequence[Window], ends: Sequence[End], logs: Iterable[Path]
) -> Outcomes:
    """Compare what became of the jobs, workers and logs with what was due."""
    jobs: dict[str, Counter[str]] = defaultdict(Counter)
    lost = {job_id for end in ends for job_id in end.lost}
    once = Invariant("jobs that did not end exactly once, or not as they had to")
    chunks = Invariant("streams with a chunk lost, doubled or out of order")
    checked = repeated = 0
    for each in sent:
        outcome, problem = judge_job(each, windows, lost)
        jobs[each.kind][outcome] += 1
        if problem:
            once.violations.append(f"{each.job.id} ({each.kind}): {problem}")
        if each.text and (each.kind in STREAMS or each.kind.endswith(CUT_SHORT)):
            count, doubled, problem = judge_chunks(each, windows)
            checked += count
            repeated += doubled
            if problem:
                chunks.violations.append(f"{each.job.id} ({each.kind}): {problem}")
    chunks.is_judged = checked > 0
    taken = Invariant("jobs that ended with their worker and have no reason")
    taken.violations = [f"{end.worker} ({end.why}): {name}" for end in ends for name in end.lost]
    exits = Invariant("workers that ended with another code than they had to")
    exits.violations = [
        f"{end.worker} ({end.why}): {end.code}, not {end.expected}"
        for end in ends
        if end.code not in end.expected
    ]
    orphans = Invariant("processes that outlived their worker")
    orphans.violations = [f"{end.worker}: {name}" for end in ends for name in end.orphans]
    logs = list(logs)
    invariants = [once, chunks, taken, exits, orphans, judge_logs(logs), judge_tracebacks(logs)]
    return Outcomes(dict(jobs), checked, repeated, invariants)


def judge_job(sent: Sent, windows: Sequence[Window], lost: set[str]) -> tuple[str, str]:
    """Return a job's outcome, and what is wrong with it or ""."""
    job = sent.job
    if not job.finished:
        return "unfinished", f"it is {job.state.value} at the end"
    if job.id in lost:
        return "lost", ""  # counted on its own
    covered = kinds_of(windows, job)
    may_fail = bool(covered & set(RESTARTS))
    is_doubled = "done" in job.late_posts and job.state is not JobState.CANCELLED
    if is_doubled and not covered & set(RESENT_END):
        return "ended twice", f"{len(job.late_posts)} POSTs after its end"
    if job.state is JobState.FAILED:
        code = error_code(job)
        if sent.expected == "refused" and code in sent.codes:
            return f"refused {code}", ""
        if code == STOPPED and may_fail:
            return f"failed {STOPPED} by a fault", ""
        return "failed", f"failed without a fault: {str(job.error)[:300]}"
    if sent.expected == "any":
        return job.state.value.lower(), ""
    if job.state is JobState.CANCELLED:
        return "cancelled", "" if sent.expected == "cancelled" else "cancelled by nobody"
    if job.state is JobState.TIMED_OUT:
        return "timed out", "it timed out"
    if sent.expected == "refused":
        return "answered", "it was answered, and had to be refused"
    if sent.expected == ANSWER:
        text = answer_text(job.output or [], sent.kind)
        if text != sent.text:
            return "wrong answer", f"{text!r}, not {sent.text!r}"
    return "answered", ""


def judge_chunks(sent: Sent, windows: Sequence[Window]) -> tuple[int, int, str]:
    """Return how many chunks a stream had, how many came twice, and what is wrong or ""."""
    chunks = [chunk.output for chunk in sent.job.chunks]
    before = [None, *chunks][: len(chunks)]
    single = [chunk for chunk, last in zip(chunks, before, strict=True) if chunk != last]
    doubled = len(chunks) - len(single)
    is_whole = sent.job.state is JobState.COMPLETED
    begins = sent.text.startswith(begun_text(single, sent.kind))
    if (is_whole and single != sent.job.output) or not begins:
        problem = f"chunks {single!r} are not the answer {sent.job.output!r}"
        return len(chunks), doubled, problem[:600]
    if doubled and not kinds_of(windows, sent.job) & set(RESENT):
        return len(chunks), doubled, f"{doubled} chunks came twice, and no fault had them resent"
    return len(chunks), doubled, ""


def kinds_of(windows: Iterable[Window], job: Job) -> set[str]:
    """Return the kinds of faults that were in effect while a job ran."""
    began, ended = job.taken_at or job.queued_at, job.finished_at or time.monotonic()
    return {window.kind for window in windows if window.overlaps(began, ended)}


def judge_logs(logs: Iterable[Path]) -> Invariant:
    """Search the logs for prompts, answers and keys."""
    found = Invariant("lines with a secret, a prompt or an answer in the workers' logs")
    words = [MARKER, *SECRETS.values(), WORKER_KEY, *(text[20:] for text in TEXTS)]
    pattern = re.compile("|".join(map(re.escape, words)))
    for path in logs:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.violations.append(f"{path.name}:{number}: {line[:200]}")
    return found


def judge_tracebacks(logs: Iterable[Path]) -> Invariant:
    """Search the logs for tracebacks; an engine's own lines begin with its process."""
    found = Invariant("tracebacks of the worker in its log")
    for path in logs:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if line.startswith("Traceback"):
                found.violations.append(f"{path.name}:{number}")
    return found
