"""What a batch job asks for; `{"batch": {…}}` in its input.

Which addresses may be asked is judged when they are (`public.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.errors import InputTooLarge, InvalidInput

MOST_LINES = 50_000  # OpenAI's
NAMES = ("requests", "url", "output_url", "resume_url", "concurrency")


@dataclass(frozen=True)
class BatchRequest:
    """A batch, as it is asked for; it has either `requests` or `url`.

    Attributes:
        requests: the lines themselves.
        url: of a file of lines.
        output_url: takes a PUT of the results; None where they are the job's output.
        resume_url: of an earlier output of the same lines.
        concurrency: lines at once, None for what the worker thinks right.
    """

    requests: list[Any] | None = None
    url: str | None = None
    output_url: str | None = None
    resume_url: str | None = None
    concurrency: int | None = None


def read(data: Mapping[str, Any]) -> BatchRequest:
    """Understand the input of a job that has a `batch`.

    Raises:
        RequestError: with what was wrong and what would be right.
    """
    for name in data:
        if name != "batch":
            raise InvalidInput(f"{name!r} does not go beside batch.", name)
    batch = data["batch"]
    if not isinstance(batch, dict):
        raise InvalidInput('batch must be an object such as {"requests": […]}.', "batch")
    for name in batch:
        if name not in NAMES:
            known = ", ".join(NAMES)
            raise InvalidInput(f"batch has no field {name!r}; there are {known}.", name)
    order = BatchRequest(**{name: value for name, value in batch.items() if value is not None})
    if order.requests is not None and order.url is not None:
        raise InvalidInput("batch takes requests or url, not both.", "batch")
    if order.requests is None and order.url is None:
        raise InvalidInput("batch needs requests or url.", "batch")
    _judge_requests(order.requests)
    for name in ("url", "output_url", "resume_url"):
        address = getattr(order, name)
        if address is not None and not isinstance(address, str):
            raise InvalidInput(f"{name} must be a text: an address of the web.", name)
    _judge_concurrency(order.concurrency)
    return order


def _judge_requests(requests: object) -> None:
    if requests is None:
        return
    if not isinstance(requests, list) or not requests:
        raise InvalidInput("requests must be a list of at least one line.", "requests")
    if len(requests) > MOST_LINES:
        raise InputTooLarge(
            f"{len(requests)} requests are too many: {MOST_LINES} are the most.", "requests"
        )


def _judge_concurrency(wanted: object) -> None:
    if wanted is None:
        return
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise InvalidInput(
            f"concurrency must be a whole number from 1 on, not {wanted!r}.", "concurrency"
        )
