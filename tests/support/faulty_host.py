"""A worker on a host with a fault that no test brings about: `python -m tests.support.faulty_host`.

The argument names the fault. A full disk, one that fails, the platform's own cache and a code path
that nobody expects need root, the platform or a bug.
"""

import errno
import runpy
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from handler import command_line, worker_process
from handler.model import hub, resolve
from handler.serve.failed_start import NoEngine
from handler.serve.queue.loop import QueueFrontEnd
from tests.support.stand_in_engine import StandInEngine


class FailingEngine(StandInEngine):
    """An engine whose process fails for a reason that it does not report."""

    import_engine = staticmethod(lambda *_: None)

    def __init__(self, *_: object) -> None:
        super().__init__("out of memory")


class RunningEngine(StandInEngine):
    """An engine that starts, whatever the settings are."""

    import_engine = staticmethod(lambda *_: None)

    def __init__(self, *_: object) -> None:
        super().__init__()
        type(self).instance = self


read_text = Path.read_text


def fail_to_read(path: Path, *arguments: object, **named: object) -> str:
    if path.suffix == ".yaml":
        raise OSError(errno.EIO, "Input/output error", str(path))
    return read_text(path, *arguments, **named)


def raise_unexpected(*_: object) -> None:
    raise RuntimeError("a bug")


def fail_while_serving(fault: str) -> None:
    """End a worker whose start has succeeded."""

    def serve(front_end: QueueFrontEnd, worker: object) -> None:
        if fault == "engine dies":
            RunningEngine.instance.alive = False
        elif fault == "thread ends":
            front_end._supervisor.thread("monitor", raise_unexpected).start()
        else:
            raise_unexpected()
        usual_serve(front_end, worker)

    usual_serve = QueueFrontEnd.serve
    QueueFrontEnd.serve = serve
    worker_process.ENGINES["vllm"] = RunningEngine


def make(fault: str, folder: Path) -> None:
    """Bring a fault about in this process.

    Args:
        folder: stands for the platform's cache.
    """
    if fault in ("small disk", "full disk"):
        total = 10 if fault == "small disk" else 10**15
        usage = SimpleNamespace(total=total, used=0, free=0)
        shutil.disk_usage = lambda _: usage
    elif fault == "failing disk":
        Path.read_text = fail_to_read
    elif fault == "platform's cache":
        resolve.ModelSources = partial(resolve.ModelSources, platform_cache=folder)
    elif fault == "short patience":
        hub.LIST_TIMEOUTS_SECONDS = (0.2, 0.4)
    elif fault == "engine":
        worker_process.ENGINES["vllm"] = FailingEngine
    elif fault in ("engine dies", "thread ends", "serve fails"):
        fail_while_serving(fault)
    elif fault == "idle thread":
        NoEngine.end = raise_unexpected
    elif fault == "failed start":
        command_line.after_failed_start = raise_unexpected
    elif fault == "unexpected":
        worker_process.check_driver = raise_unexpected
    else:
        raise SystemExit(f"no such fault: {fault!r}")


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
    sys.argv[1:] = []
    runpy.run_module("handler", run_name="__main__", alter_sys=True)
