"""The local front end: runs one job and prints its output.

The SDK's own local mode does not run a generator handler: it prints the generator object.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handler.engine.call.sse import EventSplitter, decode_event
from handler.errors import InvalidSetting
from handler.serve.worker import Output, Worker

TEST_INPUT = Path("test_input.json")


def load_job(text: str | None, path: Path = TEST_INPUT) -> dict[str, Any]:
    """Return the job in `text`, or in the file if `text` is None.

    Raises:
        InvalidSetting: there is no such file, it is not JSON, or it has no `input`.
    """
    source = "--test_input" if text is not None else str(path)
    try:
        # Windows editors add a byte-order mark, and some save as UTF-16.
        job = json.loads(path.read_bytes() if text is None else text.removeprefix("\ufeff"))
    except OSError as error:
        raise InvalidSetting(f"{source} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidSetting(f"{source} is not JSON: {error}.") from error
    if not isinstance(job, dict) or "input" not in job:
        raise InvalidSetting(f'{source} must be a JSON object with an "input".')
    return {"id": "local", **job}


def run_job(worker: Worker, job: Mapping[str, Any]) -> bool:
    """Run one job, print its output and return whether it succeeded."""
    result = asyncio.run(_collect_result(worker, job))
    if result.text:
        print(f"\n{result.text}\n")
    for line in result.summary():
        print(line)
    if result.error is not None:
        print(f"The job failed: {json.loads(result.error)['error']['message']}")
        return False
    return True


async def _collect_result(worker: Worker, job: Mapping[str, Any]) -> "LocalResult":
    result = LocalResult()
    started = time.monotonic()
    async for output in worker.handle(job):
        if result.first_output_seconds is None:
            result.first_output_seconds = time.monotonic() - started
        result.add(output)
    result.total_seconds = time.monotonic() - started
    return result


@dataclass
class LocalResult:
    """The joined outputs of one job.

    Attributes:
        text: the generated text, or the output as JSON if it has none.
        usage: the engine's token counts.
        first_output_seconds: time to the first output; of a stream, the time to first token.
        total_seconds: time to the last output.
        streamed: whether the output had several chunks; an error counts as one.
        batch_counts: lines of a batch by status; None for other jobs.
        error: the job's error as JSON text.
    """

    text: str = ""
    usage: dict[str, Any] | None = None
    first_output_seconds: float | None = None
    total_seconds: float = 0.0
    streamed: bool = False
    batch_counts: dict[str, int] | None = None
    error: str | None = None
    _outputs: int = field(default=0, init=False)
    _splitter: EventSplitter | None = field(default=None, init=False)

    def add(self, output: Output) -> None:
        """Add one output of the generator."""
        self._outputs += 1
        self.streamed = self._outputs > 1 or _starts_with_event(output)
        if isinstance(output, dict):
            if output.keys() == {"error"}:
                self.error = output["error"]
            elif "results" in output or "batch" in output:
                self._add_batch_results(output)
            else:
                self._add_object(output)
        elif not isinstance(output, str):  # SGLang's rerank returns a list
            self.text += json.dumps(output, ensure_ascii=False, indent=2)
        elif self._splitter or _starts_with_event(output):
            self._splitter = self._splitter or EventSplitter()
            for event in self._splitter.feed(output.encode()):
                if (chunk := decode_event(event)) is not None:
                    self._add_object(chunk)
        else:
            self.text += output

    def summary(self) -> list[str]:
        """Return the lines below the text: token counts and times."""
        lines = []
        usage = self.usage or {}
        prompt_tokens = usage.get("prompt_tokens", usage.get("input_tokens"))
        completion_tokens = usage.get("completion_tokens", usage.get("output_tokens"))
        token_counts = [
            f"{count} {kind}"
            for count, kind in ((prompt_tokens, "prompt"), (completion_tokens, "completion"))
            if count is not None
        ]
        if self.batch_counts is not None:
            counts = ", ".join(f"{count} {status}" for status, count in self.batch_counts.items())
            lines.append(f"lines                {counts}")
        if token_counts:
            lines.append(f"usage                {' + '.join(token_counts)} tokens")
        if self.streamed and self.first_output_seconds is not None:
            lines.append(f"time to first token  {self.first_output_seconds:.3f} s")
        if completion_tokens and self.total_seconds:
            lines.append(f"tokens per second    {completion_tokens / self.total_seconds:.1f}")
        return lines

    def _add_batch_results(self, output: dict[str, Any]) -> None:
        lines = [json.dumps(line, ensure_ascii=False) for line in output.get("results", ())]
        self.text = "\n".join([self.text, *lines] if self.text else lines)
        self.batch_counts = output.get("batch")  # only with the last results
        self.streamed = False

    def _add_object(self, data: dict[str, Any]) -> None:
        """Add the object of a response, chunk or event."""
        if "meta_info" in data and "text" in data:  # SGLang's own route repeats the whole text
            self.text, self.usage = str(data["text"]), data["meta_info"]
            return
        inner = data.get("response") or data.get("message") or {}
        self.usage = data.get("usage") or inner.get("usage") or self.usage
        text = _generated_text(data)
        if text is not None:
            self.text += text
        elif not self.streamed:
            self.text += json.dumps(data, ensure_ascii=False, indent=2)


def _starts_with_event(output: Output) -> bool:
    return isinstance(output, str) and output.startswith(("data:", "event:"))


def _generated_text(data: dict[str, Any]) -> str | None:
    """Return the text of a response, chunk or event of any route, or None if it has none."""
    kind = data.get("type")
    if kind == "response.output_text.delta":
        return str(data["delta"])
    if kind == "content_block_delta":
        return str(data["delta"].get("text", ""))
    if kind == "message":
        return "".join(part.get("text", "") for part in data["content"])
    if data.get("object") == "response":
        parts = [part for item in data["output"] for part in item.get("content") or ()]
        return "".join(part.get("text", "") for part in parts)
    if "choices" not in data:
        return None
    texts = []
    for choice in data["choices"]:
        message = choice.get("message") or choice.get("delta") or {}
        texts.append(choice.get("text") or message.get("content") or "")
        if calls := message.get("tool_calls"):
            texts.append(json.dumps(calls, ensure_ascii=False))
    return "".join(texts)
