"""The Runpod platform in small: one endpoint's queue, on 127.0.0.1. See README.md."""

from tests.platform.child import running_worker
from tests.platform.faults import Faults
from tests.platform.job import Chunk, Job, LatePost, State
from tests.platform.seen import Ping, Worker
from tests.platform.settings import Settings
from tests.platform.thread import Platform, running_platform

__all__ = [
    "Chunk",
    "Faults",
    "Job",
    "LatePost",
    "Ping",
    "Platform",
    "Settings",
    "State",
    "Worker",
    "running_platform",
    "running_worker",
]
