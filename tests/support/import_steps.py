"""Run a worker with the stand-in for its engine, and print the steps of its start.

    python -m tests.support.import_steps

A download begins only once the import has begun: without that a start would hang. The import ends
when the model is resolved. Until then it logs and warns, as imports do. A start that hangs prints
the stacks of its threads and ends.
"""

import faulthandler
import logging
import runpy
import threading
import time
import warnings

import handler.worker_process
from handler.model import hub
from tests.support.environment import START_SECONDS
from tests.support.stand_in_engine import StandInEngine

LINES_PER_SECOND = 1000  # without a pause this thread could keep the log's lock from the others
list_repository, download_files = hub.list_repository, hub.download_files
begun, resolved = threading.Event(), threading.Event()


def step(name: str) -> None:
    print("step:", name, flush=True)


class Engine(StandInEngine):
    """The stand-in, made as an engine's adapter is."""

    def __init__(self, *_: object) -> None:
        super().__init__()
        step("adapter")
        resolved.set()

    @staticmethod
    def import_engine(*_: object) -> None:
        step("import")
        begun.set()
        while not resolved.is_set():
            logging.getLogger("handler").info("importing")
            warnings.warn(f"importing at {time.monotonic()}", stacklevel=1)
            time.sleep(1 / LINES_PER_SECOND)
        step("imported")

    def check_flags(self) -> None:
        step("flags")

    def start(self, pacer):
        step("start")
        return super().start(pacer)


def list_as_a_step(*arguments):
    step("hub")
    return list_repository(*arguments)


def download_after_import_began(*arguments, **options):
    begun.wait()
    step("download")
    return download_files(*arguments, **options)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(START_SECONDS / 2, exit=True)
    handler.worker_process.ENGINES["vllm"] = Engine
    hub.list_repository = list_as_a_step
    hub.download_files = download_after_import_began
    runpy.run_module("handler", run_name="__main__", alter_sys=True)
