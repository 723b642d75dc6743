"""What is asked of the endpoint: the traffic of a day, and how long its requests are."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from builder.errors import InvalidArgument
from builder.traffic.day import (
    SCHEDULE_ENTRY,
    Lengths,
    Traffic,
    parse_schedule,
    read_traffic_file,
)
from builder.traffic.prometheus import Prometheus

DEFAULT_LENGTHS = {"prompt": Lengths(1000.0), "answer": Lengths(300.0)}
MIN_REQUESTS = 10
MAX_REQUESTS = 2_000_000  # a day: minutes of one core for each deployment


@dataclass(frozen=True)
class Demand:
    """The requests of a day.

    Attributes:
        traffic: when they come.
        prompt, answer: their lengths.
    """

    traffic: Traffic
    prompt: Lengths
    answer: Lengths

    @property
    def request_tokens(self) -> int:
        """The tokens of a usual request: its prompt and its answer."""
        return max(1, round(self.prompt.mean + self.answer.mean))


def read_demand(options: argparse.Namespace) -> Demand:
    """Read the source that --traffic names.

    Raises:
        InvalidArgument: there is none, or it has no requests or too many.
    """
    source = options.traffic
    lengths = {"prompt": options.prompt, "answer": options.answer}
    if source.startswith(("http://", "https://")):
        with Prometheus(source) as prometheus:
            traffic = prometheus.traffic()
            lengths = {of: given or prometheus.lengths(of) for of, given in lengths.items()}
    elif not SCHEDULE_ENTRY.match(source) and Path(source).is_file():
        traffic = read_traffic_file(Path(source))
    else:
        traffic = parse_schedule(source)
    if not MIN_REQUESTS <= traffic.requests <= MAX_REQUESTS:
        raise InvalidArgument(
            f"--traffic {traffic.source}: {traffic.requests:,.0f} requests a day cannot be "
            f"simulated; there must be at least {MIN_REQUESTS}, and at most {MAX_REQUESTS:,}. For "
            "more, plan a part of them, and multiply."
        )
    prompt, answer = (given or DEFAULT_LENGTHS[of] for of, given in lengths.items())
    return Demand(traffic, prompt, answer)
