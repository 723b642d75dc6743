"""`python -m tests.support.queue_worker`: the queue front end on the stand-in engine.

A worker for the platform in small that starts in seconds. FAULT makes the SDK fail: see `FAULTS`.
SIGUSR1 makes a thread of the worker fail.
"""

import functools
import os
import signal
import sys

from handler.errors import StartError
from handler.logs import configure_logging
from handler.settings.environ import export
from handler.supervisor import Supervisor
from tests.support.stand_in_engine import running_stand_in, worker_on


def fail_the_stop_signals(rp_scale):
    """The first stop signal ends the loop that takes them."""

    def fail(self, job_id):
        raise SystemError("planned")  # before the SDK awaits it

    async def monitor(self, session):
        fail(self, await rp_scale.get_stop_signals(session))

    rp_scale.JobScaler.monitor_stop_signals = monitor


def fail_a_job(rp_scale):
    """The SDK itself fails on the first job, before it calls the worker."""
    handle_job = rp_scale.JobScaler.handle_job
    started = []

    async def fail(self, session, job):
        started.append(job)
        if len(started) == 1:
            self.jobs_queue.task_done()
            self.job_progress.remove(job)
            del self.jobs_tasks[job["id"]]
            raise RuntimeError("planned")
        await handle_job(self, session, job)

    rp_scale.JobScaler.handle_job = fail


def shorten_the_pauses(_):
    """A POST that was refused is sent again at once."""
    from handler.serve.queue import loop

    loop.Delivery = functools.partial(loop.Delivery, retry_pauses_seconds=[0.1] * 5)


def fail():
    raise RuntimeError("planned")


FAULTS = {
    "stop signals": fail_the_stop_signals,
    "a job": fail_a_job,
    "short pauses": shorten_the_pauses,
}


def main():
    configure_logging("INFO", "text")
    from handler.serve import worker as serve_worker
    from handler.serve.queue import drain
    from handler.serve.queue.loop import QueueFrontEnd
    from handler.serve.queue.ping import bounded_jobs
    from handler.serve.queue.sdk_patches import import_sdk, sdk_environment

    export(sdk_environment("INFO", os.environ))
    import_sdk()
    from runpod.serverless.modules import rp_scale

    if fault := os.environ.get("FAULT"):
        FAULTS[fault](rp_scale)
    # A platform on a busy machine takes the last results late.
    serve_worker.LAST_OUTPUT_GRACE_SECONDS = drain.LAST_OUTPUT_GRACE_SECONDS = 60.0
    supervisor = Supervisor()
    signal.signal(signal.SIGUSR1, lambda *_: supervisor.thread("monitor", fail).start())
    max_jobs = int(os.environ.get("MAX_CONCURRENCY", "8"))
    with running_stand_in() as (_, runtime):
        front_end = QueueFrontEnd(
            max_jobs=bounded_jobs(max_jobs, is_auto=False, environ=os.environ),
            drain_timeout_seconds=float(os.environ.get("DRAIN_TIMEOUT", "5")),
            on_first_poll=lambda: None,
            on_post=lambda *_: None,
            supervisor=supervisor,
        )
        try:
            timeout_seconds = float(os.environ.get("REQUEST_TIMEOUT", "60"))
            worker = worker_on(
                runtime, front_end=front_end, request_timeout_seconds=timeout_seconds
            )
            front_end.serve(worker)
        except StartError as error:
            print(error, file=sys.stderr, flush=True)
            return error.exit_code
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
