"""A local stand-in for the Runpod platform: one endpoint's queue on 127.0.0.1. See README.md."""

from runpod_local.endpoint_state import Settings
from runpod_local.faults import Faults
from runpod_local.jobs import Chunk, Job, JobState
from runpod_local.platform import Platform, running_platform
from runpod_local.worker_process import running_worker
from runpod_local.workers import Ping, Worker

__all__ = [
    "Chunk",
    "Faults",
    "Job",
    "JobState",
    "Ping",
    "Platform",
    "Settings",
    "Worker",
    "running_platform",
    "running_worker",
]
