"""The local front door: one job from test_input.json through the worker's generator, printed.

The SDK has a local mode too, but with a generator handler it prints the generator object, says
"completed successfully" and never runs it.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.engine.sse import EventSplitter, decode_event
from handler.errors import InvalidSetting
from handler.serve.worker import Output, Worker

TEST_INPUT = Path("test_input.json")


def read_job(text: str | None, path: Path = TEST_INPUT) -> dict[str, Any]:
    """Return the job to run: `text` if given, else the file's content.

    Raises:
        InvalidSetting: there is no file, it is not JSON, or it has no `input`.
    """
    source = "--test_input" if text is not None else str(path)
    try:
        job = json.loads(path.read_text() if text is None else text)
    except OSError as error:
        raise InvalidSetting(f"{source} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidSetting(f"{source} is not JSON: {error}.") from error
    if not isinstance(job, dict) or "input" not in job:
        raise InvalidSetting(f'{source} must be an object with an "input".')
    return {"id": "local", **job}


@dataclass
class Answer:
    """What one job gave.

    Attributes:
        text: what the model wrote, or the whole output as JSON where it wrote nothing.
        usage: token counts as the engine counts them, or None.
        first_seconds: time to the first yield; for a stream that is the time to first token.
        total_seconds: time to the end.
        streamed: whether the answer came in pieces (an error counts as one).
        batch: how many lines of a batch there were, and of which kind; None of any other job.
        error: the job's error as JSON text, or None.
    """

    text: str = ""
    usage: dict[str, Any] | None = None
    first_seconds: float | None = None
    total_seconds: float = 0.0
    streamed: bool = False
    batch: dict[str, int] | None = None
    error: str | None = None
    _yields: int = 0
    _events: EventSplitter | None = None

    def add(self, output: Output) -> None:
        """Take one yield of the generator."""
        self._yields += 1
        self.streamed = self._yields > 1 or is_event(output)
        if isinstance(output, dict):
            if output.keys() == {"error"}:
                self.error = output["error"]
            elif "results" in output or "batch" in output:
                self._add_results(output)
            else:
                self._add_object(output)
        elif not isinstance(output, str):  # SGLang's rerank answers with a list
            self.text += json.dumps(output, ensure_ascii=False, indent=2)
        elif self._events or is_event(output):
            self._events = self._events or EventSplitter()
            for event in self._events.feed(output.encode()):
                if (chunk := decode_event(event)) is not None:
                    self._add_object(chunk)
        else:
            self.text += output

    def _add_results(self, output: dict[str, Any]) -> None:
        """Take some of a batch's results, or its end, which the counts come with."""
        lines = [json.dumps(line, ensure_ascii=False) for line in output.get("results", ())]
        self.text = "\n".join([self.text, *lines] if self.text else lines)
        self.batch = output.get("batch")
        self.streamed = False

    def _add_object(self, answer: dict[str, Any]) -> None:
        inner = answer.get("response") or answer.get("message") or {}
        self.usage = answer.get("usage") or inner.get("usage") or self.usage
        written = _written(answer)
        if written is not None:
            self.text += written
        elif not self.streamed:
            self.text += json.dumps(answer, ensure_ascii=False, indent=2)


def is_event(output: Output) -> bool:
    """Whether a yield begins as server-sent events do."""
    return isinstance(output, str) and output.startswith(("data:", "event:"))


def _written(answer: dict[str, Any]) -> str | None:
    """Return the text in an answer, a chunk or an event of any route; None where there is none."""
    kind = answer.get("type")
    if kind == "response.output_text.delta":
        return str(answer["delta"])
    if kind == "content_block_delta":
        return str(answer["delta"].get("text", ""))
    if kind == "message":
        return "".join(part.get("text", "") for part in answer["content"])
    if answer.get("object") == "response":
        parts = [part for item in answer["output"] for part in item.get("content") or ()]
        return "".join(part.get("text", "") for part in parts)
    if "choices" not in answer:
        return None
    texts = []
    for choice in answer["choices"]:
        message = choice.get("message") or choice.get("delta") or {}
        texts.append(choice.get("text") or message.get("content") or "")
        if calls := message.get("tool_calls"):
            texts.append(json.dumps(calls, ensure_ascii=False))
    return "".join(texts)


async def answer(worker: Worker, job: Mapping[str, Any]) -> Answer:
    """Run one job to its end."""
    result = Answer()
    started = time.monotonic()
    async for output in worker.handle(job):
        if result.first_seconds is None:
            result.first_seconds = time.monotonic() - started
        result.add(output)
    result.total_seconds = time.monotonic() - started
    return result


def run(worker: Worker, job: Mapping[str, Any]) -> bool:
    """Run one job and print its answer readably; return whether it succeeded."""
    result = asyncio.run(answer(worker, job))
    if result.text:
        print(f"\n{result.text}\n")
    for line in _figures(result):
        print(line)
    if result.error is not None:
        print(f"The job failed: {json.loads(result.error)['error']['message']}")
        return False
    return True


def _figures(result: Answer) -> list[str]:
    lines = []
    usage = result.usage or {}
    read = usage.get("prompt_tokens", usage.get("input_tokens"))
    written = usage.get("completion_tokens", usage.get("output_tokens"))
    counts = [
        f"{count} {word}"
        for count, word in ((read, "prompt"), (written, "completion"))
        if count is not None
    ]
    if result.batch is not None:
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.batch.items())
        lines.append(f"lines                {kinds}")
    if counts:
        lines.append(f"usage                {' + '.join(counts)} tokens")
    if result.streamed and result.first_seconds is not None:
        lines.append(f"time to first token  {result.first_seconds:.3f} s")
    if written and result.total_seconds:
        lines.append(f"tokens per second    {written / result.total_seconds:.1f}")
    return lines
