"""`python -m tests.support.http_stand_in`: the HTTP front end on the stand-in engine, a process."""

import os
import sys

from handler.logs import configure_logging
from handler.metrics.cost import CostMeter
from handler.metrics.monitor import Monitor
from handler.serve.http.lifecycle import HttpFrontEnd
from handler.settings.environ import load_settings
from handler.startup.timings import StartupTimings
from tests.support.stand_in_engine import running_stand_in, worker_on

MAX_JOBS = 8


def main():
    configure_logging("INFO", "text")
    settings = load_settings(os.environ)
    with (
        HttpFrontEnd(settings) as front_end,
        running_stand_in() as (_, runtime),
        Monitor(runtime, StartupTimings(0.0), MAX_JOBS, CostMeter(None, 0.0)) as monitor,
    ):
        worker = worker_on(
            runtime,
            max_jobs=MAX_JOBS,
            front_end=front_end,
            request_timeout_seconds=settings.request_timeout_seconds,
            monitor=monitor,
        )
        front_end.serve(worker, MAX_JOBS, monitor)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
