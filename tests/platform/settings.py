"""What can be set. Everything that is a duration may be changed while the server runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Settings:
    """The platform's settings; the defaults are the real platform's where they are known.

    `stream_wait_seconds` and `poll_seconds` are not known there: see the README.
    """

    endpoint_id: str = "demo"
    api_key: str = "demo-user-key"
    worker_key: str = "demo-worker-key"
    port: int = 0
    poll_seconds: float = 20.0
    stream_wait_seconds: float = 1.0
    runsync_wait_seconds: float = 90.0
    execution_timeout_seconds: float = 600.0
    post_delay_seconds: float = 0.0
    ping_interval_seconds: int = 10

    def __post_init__(self) -> None:
        """Refuse a ping interval that the SDK would turn into a loop without a pause."""
        if self.ping_interval_seconds < 1:
            message = f"ping_interval_seconds is {self.ping_interval_seconds}, at least 1 is needed"
            raise ValueError(message)
