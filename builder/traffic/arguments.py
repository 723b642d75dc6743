"""The arguments of `plan --traffic`."""

import argparse
from math import inf
from pathlib import Path

from builder.cli import whole_number
from builder.traffic.day import Lengths

FLASHBOOT_SECONDS = 4.0  # the middle of the 1 to 7 s that Runpod's pages say
SAVINGS_PERCENT = 15.0
MIN_VARIATION, MAX_VARIATION = 0.01, 10
PICTURES = (".svg", ".png", ".pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe the traffic and the endpoint."""
    group = parser.add_argument_group(
        "a day of traffic", "simulated on flex and active workers and on Pods"
    )
    add = group.add_argument
    traffic = (
        "requests an hour at times of the day (1000@09:00,20@03:00, linear between), a CSV file "
        "(time, requests until the next time), an access log, or the URL of a Prometheus"
    )
    add("--traffic", metavar="TEXT|FILE|URL", help=traffic)
    lengths = "tokens: mean and variation, such as 1200 (exponential), 1200,0.5 or 1200,0"
    add("--prompt", type=_lengths, metavar="N[,V]", help=f"prompt {lengths} (1000, or measured)")
    add("--answer", type=_lengths, metavar="N[,V]", help="the same of answers (300, or measured)")
    slo = "seconds that 95 %% of the requests may wait for the first token (10)"
    add("--slo-p95", type=_positive, default=10.0, metavar="SECONDS", help=slo)
    add("--max-workers", type=whole_number(1), metavar="N", help="at most (as many as pay)")
    delay = "start a worker when a request has waited so long (4)"
    add("--queue-delay", type=_positive, default=4.0, metavar="SECONDS", help=delay)
    add("--request-count", type=_positive, metavar="N", help="scale by requests per worker instead")
    idle = "time until an idle worker stops (5)"
    add("--idle-timeout", type=_positive, default=5.0, metavar="SECONDS", help=idle)
    cold = "time until a new worker serves (60, and 1 s for each GB of weights)"
    add("--cold-start", type=_positive, metavar="SECONDS", help=cold)
    boot = f"the same with FlashBoot ({FLASHBOOT_SECONDS:g}); 0 is without"
    add("--flashboot", type=_not_negative, default=FLASHBOOT_SECONDS, metavar="SECONDS", help=boot)
    speed = (
        "measured tokens per second by running requests, such as 1:60,16:700,64:1900, of the GPU "
        "that --gpu names"
    )
    add("--speed", type=_speed, metavar="N:SPEED,…", help=speed)
    prefill = "measured prompt tokens per second"
    add("--prefill-speed", type=_positive, metavar="SPEED", help=prefill)
    active = "discount of active workers in percent (0: Runpod publishes none)"
    add("--active-discount", type=_percent, default=0.0, metavar="PERCENT", help=active)
    savings = f"discount of a Pod's savings plan in percent ({SAVINGS_PERCENT:g}, assumed)"
    add("--savings-plan", type=_percent, default=SAVINGS_PERCENT, metavar="PERCENT", help=savings)
    plot = "draw load, workers and waits (.svg, .png, .pdf)"
    add("--plot", type=_picture, metavar="FILE", help=plot)


def _lengths(text: str) -> Lengths:
    mean, _, variation = text.partition(",")
    lengths = Lengths(_positive(mean), _not_negative(variation) if variation else 1.0)
    if lengths.variation and not MIN_VARIATION <= lengths.variation <= MAX_VARIATION:
        raise argparse.ArgumentTypeError(
            f"{text!r}: the variation must be 0, or from {MIN_VARIATION} to {MAX_VARIATION}"
        )
    return lengths


def _speed(text: str) -> dict[int, float]:
    pairs = [entry.partition(":") for entry in text.split(",")]
    try:
        speeds = {int(running): float(speed) for running, _, speed in pairs}
    except ValueError:
        speeds = {}
    if not speeds or min(speeds) < 1 or not all(0 < each < inf for each in speeds.values()):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be running requests and their tokens per second: 1:60,16:700"
        )
    return speeds


def _positive(text: str) -> float:
    value = _not_negative(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} must be above zero")
    return value


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in PICTURES or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r} must end with {', '.join(PICTURES)}, in a folder that exists"
        )
    return path


def _percent(text: str) -> float:
    value = _not_negative(text)
    if value >= 100:
        raise argparse.ArgumentTypeError(f"{text!r} must be below 100")
    return value


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 up")
    return value
