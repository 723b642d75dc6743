"""The input of a batch job, `{"batch": {…}}`; `safe_fetch` checks its URLs later."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.errors import InputTooLarge, InvalidInput
from handler.request.json_text import shown

MAX_LINES = 50_000  # OpenAI's limit


@dataclass(frozen=True)
class BatchRequest:
    """A batch, with either `requests` or `url`.

    Attributes:
        requests: the lines.
        url: the URL of a file with the lines.
        output_url: the URL for a PUT of the results; None for results in the job's output.
        resume_url: the URL of an earlier output of the same lines.
        concurrency: the number of concurrent lines, None for the worker's default.
    """

    requests: list[Any] | None = None
    url: str | None = None
    output_url: str | None = None
    resume_url: str | None = None
    concurrency: int | None = None


FIELDS = tuple(BatchRequest.__dataclass_fields__)


def parse_batch_request(data: object) -> BatchRequest | None:
    """Return the batch in a job's input, or None if it is a single request.

    Raises:
        RequestError: the batch is invalid.
    """
    if not isinstance(data, Mapping) or data.get("batch") is None:
        return None
    for name, value in data.items():
        if name != "batch" and value is not None:
            raise InvalidInput(f"{name!r} is not allowed beside batch.", name)
    batch = data["batch"]
    if not isinstance(batch, dict):
        raise InvalidInput('batch must be a JSON object such as {"requests": […]}.', "batch")
    for name in batch:
        if name not in FIELDS:
            raise InvalidInput(
                f"batch has no field {name!r}; its fields are {', '.join(FIELDS)}.", name
            )
    request = BatchRequest(**{name: value for name, value in batch.items() if value is not None})
    if request.requests is not None and request.url is not None:
        raise InvalidInput("batch needs requests or url, not both.", "batch")
    if request.requests is None and request.url is None:
        raise InvalidInput("batch needs requests or url.", "batch")
    _check_lines(request.requests)
    for name in ("url", "output_url", "resume_url"):
        url = getattr(request, name)
        if url is not None and not isinstance(url, str):
            raise InvalidInput(f"{name} must be an http or https URL.", name)
    _check_concurrency(request.concurrency)
    return request


def _check_lines(lines: object) -> None:
    if lines is None:
        return
    if not isinstance(lines, list) or not lines:
        raise InvalidInput("requests must be a list of at least one line.", "requests")
    if len(lines) > MAX_LINES:
        raise InputTooLarge(
            f"requests has {len(lines)} lines; the limit is {MAX_LINES}.", "requests"
        )


def _check_concurrency(value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(
            f"concurrency must be an integer of at least 1, got {shown(value)}.", "concurrency"
        )
