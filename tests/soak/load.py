"""The jobs of a soak: what each one sends, and what must become of it."""

import json
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runpod_local import Job, JobState, Platform
from tests.soak.schedule import Event

WORDS = "one two three four five six seven eight nine ten".split()
TEXTS = tuple(" ".join(WORDS[first:] + WORDS[:first]) for first in (0, 3, 6, 9))
MARKER = "soakprompt"
MAX_TOKENS = 64  # a text has fewer characters
STORY_TOKENS = 400  # go on for seconds


def without_repeats(length: int) -> list[str]:
    """Return so many words of which no run equals the run before it.

    So two chunks of a stream, one after the other, are equal only if one was sent twice.
    """
    source, words = random.Random(0), list[str]()
    while len(words) < length:
        words.append(source.choice(WORDS))
        sizes = range(1, len(words) // 2 + 1)
        if any(words[-size:] == words[-2 * size : -size] for size in sizes):
            words.pop()
    return words


STORY = " ".join(without_repeats(STORY_TOKENS))
CUT_SHORT = ": job"  # ends the kind of a job whose end a fault decides
ANSWER = "answer"  # an expected outcome; the others are "refused" and "cancelled"


@dataclass
class Sent:
    """A job that was sent.

    Attributes:
        expected: "answer", "refused" or "cancelled".
        text: the whole answer.
        codes: of an expected refusal.
    """

    kind: str
    job: Job
    expected: str
    text: str = ""
    codes: tuple[int, ...] = ()
    sent_at: float = field(default_factory=time.monotonic)


class Load:
    """Sends jobs to a platform."""

    def __init__(self, platform: Platform, engine: str, device: str) -> None:
        self.sent: list[Sent] = []
        self._platform, self._engine = platform, engine
        # SGLang's simulated engine has no grammars: there each answer is the first text.
        self._has_grammars = (engine, device) != ("sglang", "simulated")

    def send(self, event: Event) -> Sent:
        """Send the job of an event."""
        make: Callable[[Event], tuple[Any, dict[str, Any]]] = {
            "stream": self._stream,
            "openai stream": self._openai_stream,
            "plain": self._plain,
            "tools": self._tools,
            "batch": self._batch,
            "cancel early": self._cancelled,
            "cancel late": self._cancelled,
            "oversized": self._oversized,
            "hostile": self._hostile,
        }[event.kind]
        job_input, expected = make(event)
        job = self._platform.job(self._platform.submit(job_input))
        sent = Sent(event.kind, job, **expected)
        self.sent.append(sent)
        if event.kind.startswith("cancel"):
            threading.Thread(target=self._cancel, args=(sent, event), daemon=True).start()
        return sent

    def story(self, number: int) -> tuple[dict[str, Any], str]:
        """Return a stream that goes on for seconds, and its text; "" where nothing fixes it."""
        chat = self._plain_chat(number) | {"max_tokens": STORY_TOKENS, "stream": True}
        if not self._has_grammars:
            return {**chat, "ignore_eos": True}, ""
        return {**chat, **self._only(STORY)}, STORY

    def chat(self, number: int, **more: Any) -> tuple[dict[str, Any], str]:
        """Return a chat whose answer is fixed, and the answer."""
        text = TEXTS[number % len(TEXTS)] if self._has_grammars else TEXTS[0]
        only = self._only(text) if self._has_grammars else {}
        return {**self._plain_chat(number), **only, **more}, text

    def _only(self, text: str) -> dict[str, Any]:
        """Return the field that allows one text only."""
        if self._engine == "vllm":
            return {"structured_outputs": {"choice": [text]}}
        return {"regex": re.escape(text).replace("\\ ", " ")}

    def _plain_chat(self, number: int) -> dict[str, Any]:
        message = {"role": "user", "content": f"Count, please. {MARKER}{number}"}
        return {"messages": [message], "temperature": 0, "max_tokens": MAX_TOKENS}

    def _stream(self, event: Event) -> tuple[Any, dict[str, Any]]:
        chat, text = self.chat(event.number, stream=True)
        return chat, {"expected": ANSWER, "text": text}

    def _openai_stream(self, event: Event) -> tuple[Any, dict[str, Any]]:
        chat, text = self.chat(event.number, stream=True)
        sent = {"openai_route": "/v1/chat/completions", "openai_input": chat}
        return sent, {"expected": ANSWER, "text": text}

    def _plain(self, event: Event) -> tuple[Any, dict[str, Any]]:
        chat, text = self.chat(event.number)
        return chat, {"expected": ANSWER, "text": text}

    def _tools(self, event: Event) -> tuple[Any, dict[str, Any]]:
        """With a grammar the only possible call is the answer."""
        schema = {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris"]}},
            "required": ["city"],
            "additionalProperties": False,
        }
        function = {"name": "find_city", "parameters": schema, "strict": True}
        tool = {"type": "function", "function": function}
        chat = self._plain_chat(event.number) | {"tools": [tool], "max_tokens": 2 * MAX_TOKENS}
        if not self._has_grammars:
            return {"openai_input": chat}, {"expected": ANSWER, "text": TEXTS[0]}
        chat["tool_choice"] = {"type": "function", "function": {"name": "find_city"}}
        return {"openai_input": chat}, {"expected": ANSWER, "text": "find_city(city=Paris)"}

    def _batch(self, event: Event) -> tuple[Any, dict[str, Any]]:
        bodies = [self.chat(event.number + index) for index in range(3)]
        requests = [
            {"custom_id": str(index), "method": "POST", "url": "/v1/chat/completions", "body": body}
            for index, (body, _) in enumerate(bodies)
        ]
        text = "|".join(text for _, text in bodies)
        return {"batch": {"requests": requests}}, {"expected": ANSWER, "text": text}

    def _cancelled(self, event: Event) -> tuple[Any, dict[str, Any]]:
        story, text = self.story(event.number)
        return story, {"expected": "cancelled", "text": text}

    def _oversized(self, event: Event) -> tuple[Any, dict[str, Any]]:
        prompt = f"{MARKER}{event.number} "
        schema = {"enum": [f"{MARKER} {index:06}" for index in range(20_000)]}
        variants = [
            ({"prompt": prompt + "a " * 100_000, "max_tokens": 4}, 400),
            ({"prompt": prompt, "max_tokens": 9_000}, 400),
            ({"prompt": prompt, "n": 500, "max_tokens": 4}, 400),
            ({"prompt": [1] * 300_000, "max_tokens": 4}, 413),
            ({**self._plain_chat(event.number), "guided_json": schema}, 400),
        ]
        job_input, code = variants[event.number % len(variants)]
        return job_input, {"expected": "refused", "codes": (code,)}

    def _hostile(self, event: Event) -> tuple[Any, dict[str, Any]]:
        chat = self._plain_chat(event.number)
        image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/image.png"}}
        deep: Any = {"type": "string"}
        for _ in range(900):
            deep = {"type": "array", "items": deep}
        deep_text = {"type": "json_schema", "json_schema": {"name": "deep", "schema": "[" * 50_000}}
        variants: list[tuple[Any, int]] = [
            ({**chat, "guided_json": {"$ref": "#"}}, 400),
            ({**chat, "guided_regex": f"({MARKER}"}, 400),
            ({"openai_input": {**chat, "guided_json": deep}}, 400),
            ({**chat, "response_format": deep_text}, 400),
            ({**chat, "temprature": 1}, 400),
            ({"route": "flush_cache", "body": chat}, 404),
            ([MARKER], 400),
            ({**chat, "model": "gpt-4"}, 404),
            ({**chat, "messages": [{"role": "user", "content": [image]}]}, 400),
            ({"prompt": {MARKER: 1}}, 400),
            ({"prompt": f"{MARKER}\ud800", "\ud800": 1}, 400),
        ]
        job_input, code = variants[event.number % len(variants)]
        return job_input, {"expected": "refused", "codes": (code,)}

    def _cancel(self, sent: Sent, event: Event) -> None:
        """Early: about when the job is taken. Late: some time after its first chunk."""
        state, chunks = sent.job, sent.job.chunks
        deadline = time.monotonic() + 60
        while state.state is JobState.IN_QUEUE and time.monotonic() < deadline:
            time.sleep(0.005)
        while event.kind == "cancel late" and not chunks and not state.finished:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        time.sleep(event.value)
        self._platform.cancel(sent.job.id)


def error_code(job: Job) -> int | None:
    """Return the code of a failed job's error object."""
    try:
        return int(json.loads(job.error)["error"]["code"])
    except (TypeError, ValueError, KeyError):
        return None


def answer_text(outputs: list[Any], kind: str) -> str:
    """Return the whole text of outputs, or what shows that they are not one answer."""
    if kind == "batch":
        results = [result for output in outputs for result in output["results"]]
        bodies = [(result["response"] or {}).get("body") for result in results]
        return "|".join(answer_text([body], "plain") for body in bodies)
    if kind == "openai stream":
        events = "".join(outputs).split("\n\n")
        if events[-2:] != ["data: [DONE]", ""]:
            return f"no end: {events[-2:]}"
        outputs = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    if kind == "duplicate id":
        kind = "stream"
    parts = [
        _choice_text(choice, kind)
        for output in outputs
        if isinstance(output, dict)
        for choice in output.get("choices", [])
    ]
    return "".join(parts)


def begun_text(outputs: list[Any], kind: str) -> str:
    """Return the text of a stream's first outputs, or what shows that they are none."""
    if kind != "openai stream":
        return answer_text(outputs, "stream")
    *events, _ = "".join(outputs).split("\n\n")
    data = [event.removeprefix("data: ") for event in events if event != "data: [DONE]"]
    try:
        return answer_text([json.loads(each) for each in data], "stream")
    except ValueError as error:
        return f"no event: {error}"


def _choice_text(choice: dict[str, Any], kind: str) -> str:
    message = choice.get("delta") or choice.get("message") or {}
    calls = message.get("tool_calls") or []
    if calls and kind == "tools":
        function = calls[0]["function"]
        arguments = json.loads(function["arguments"])
        return f"{function['name']}({', '.join(f'{k}={v}' for k, v in arguments.items())})"
    return message.get("content") or ""
