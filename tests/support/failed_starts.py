"""A start that fails on the platform in small: what its callers and the platform get."""

import json
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from handler.engine.failed_start.report import Failure, FailureReport, report
from runpod_local import Ping, Platform
from tests.support.conditions import wait_until
from tests.support.environment import ROOT, START_SECONDS

JOB = {"prompt": "x"}
MAX_REASON_CHARACTERS = 256  # of a report


def start(
    platform: Platform, command: Sequence[str], environ: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run a worker to its end, which is a SIGTERM once all jobs are finished if it takes them."""

    def is_done() -> bool:
        finished = [job.finished for job in platform.state.jobs.values()]
        return process.poll() is not None or (bool(finished) and all(finished))

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command,
            env=dict(environ) | platform.worker_environment(),
            cwd=ROOT,
            stdout=out,
            stderr=err,
        )
        try:
            wait_until(is_done, START_SECONDS)
            process.send_signal(signal.SIGTERM)
            process.wait(START_SECONDS)
        finally:
            process.kill()
            process.wait()
        printed = [file.seek(0) or file.read() for file in (out, err)]
    return subprocess.CompletedProcess(command, process.returncode, *printed)


def assert_lasting(
    platform: Platform, command: Sequence[str], environ: Mapping[str, str], code: int
) -> str:
    """Assert that a start ends with this code, and fails a job with its last line; return that."""
    name = platform.submit(JOB)
    done = start(platform, command, environ)
    assert done.returncode == code, done.stderr
    reason, job = done.stderr.splitlines()[-1], platform.job(name)
    assert job.state == "FAILED", reason
    error = json.loads(job.error)["error"]
    assert error["code"] == 503
    assert error["message"] == f"The worker cannot start. {reason}", done.stderr
    assert not any(ping.status for ping in pings(platform))
    return reason


def assert_of_this_host(
    platform: Platform, command: Sequence[str], environ: Mapping[str, str], code: int, check: str
) -> str:
    """Assert that a start ends with this code, and reports its last line instead of taking jobs."""
    name = platform.submit(JOB)
    done = start(platform, command, environ)
    assert done.returncode == code, done.stderr
    reason, job = done.stderr.splitlines()[-1], platform.job(name)
    assert (job.state, job.attempts) == ("IN_QUEUE", 0)
    [report] = unhealthy_pings(platform)
    assert (report.check, report.reason) == (check, reason[:MAX_REASON_CHARACTERS])
    return reason


def failure_of(error: BaseException) -> Failure:
    """Return the failure that the worker reads where a process of the engine ends by this."""
    with FailureReport() as failure_report:
        report(error)
        failure = failure_report.read()
    assert failure is not None
    return failure


def pings(platform: Platform) -> list[Ping]:
    """Return the heartbeats and reports so far."""
    return [ping for worker in platform.workers.values() for ping in worker.pings]


def unhealthy_pings(platform: Platform) -> list[Ping]:
    """Return the reports of a worker, once there is one."""
    reports: list[Ping] = []

    def has_reported(worker):
        reports[:] = [ping for ping in worker.pings if ping.status == "unhealthy"]
        return bool(reports)

    platform.wait_for_worker(60, has_reported)
    return reports
