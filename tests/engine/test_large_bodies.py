"""Large bodies beside a stream: each is refused or answered, and nothing is left of it.

How long the others wait is in docs/benchmarks.md.
"""

import json
import threading

import httpx
import psutil
import pytest

from handler.request.body import MAX_BODY_BYTES
from tests.support.conditions import wait_until

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES = [{"role": "user", "content": "Hi"}]
TOKENS = 100
VICTIM = {"prompt": "Once", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
VICTIM["stream_options"] = {"include_usage": True}
WORDS = "hello wor " * 2_900_000
VALUES = "The body has more than 258192 JSON values, the limit that MAX_JSON_VALUES sets"
ITEMS = "has too many messages, parts, tools or texts: a request may have"
CANNOT_FIT = "characters, which cannot fit the context of 8192 tokens"
PING_INTERVAL_SECONDS = 0.02
REPEATS = 12
MAX_GROWTH = 0.2


def nested_media():
    media = b"[" * 60 + b",".join([b'["a"]'] * 3_000_000) + b"]" * 60
    part = b'{"type":"image_url","image_url":' + media + b"}"
    return b'{"messages":[{"role":"user","content":[' + part + b"]}]}"


def fields(count):
    return {f"field_{number}": 1 for number in range(count)}


ATTACKS = {
    "nested media": (CHAT, nested_media, 413, VALUES),
    "500,000 messages": (CHAT, lambda: {"messages": MESSAGES * 500_000}, 413, VALUES),
    "messages": (CHAT, lambda: {"messages": MESSAGES * 60_000}, 400, ITEMS),
    "parts": (
        CHAT,
        lambda: {"messages": [{"role": "user", "content": [{"type": "text"}] * 60_000}]},
        400,
        ITEMS,
    ),
    "tools": (CHAT, lambda: {"messages": MESSAGES, "tools": [{"type": "f"}] * 60_000}, 400, ITEMS),
    "responses": (RESPONSES, lambda: {"input": MESSAGES * 60_000}, 400, ITEMS),
    "jobs": ("/runsync", lambda: {"input": {"messages": MESSAGES * 500_000}}, 413, "The body has"),
    "invalid items": (RESPONSES, lambda: {"input": [{"x": 1}] * 1000}, 400, "input"),
    "invalid messages": (CHAT, lambda: {"messages": [{"x": 1}] * 8000}, 400, "messages.0"),
    "fields": (COMPLETIONS, lambda: {"prompt": "Hi"} | fields(100_000), 400, "The body has 100001"),
    "a text": (COMPLETIONS, lambda: {"prompt": WORDS}, 400, CANNOT_FIT),
    "a text in a message": (
        CHAT,
        lambda: {"messages": [{"role": "user", "content": WORDS}]},
        400,
        CANNOT_FIT,
    ),
    "a text in a part": (
        RESPONSES,
        lambda: {"input": [{"role": "user", "content": [{"type": "input_text", "text": WORDS}]}]},
        400,
        CANNOT_FIT,
    ),
    "a text to truncate": (
        COMPLETIONS,
        lambda: {"prompt": WORDS, "truncate_prompt_tokens": 1},
        400,
        "characters",
    ),
    "a text to tokenize": ("/tokenize", lambda: {"prompt": WORDS}, 400, CANNOT_FIT),
    "values": (
        CHAT,
        lambda: {
            "messages": MESSAGES,
            "chat_template_kwargs": {"x": [{}] * 120_000},
            "max_tokens": 1,
        },
        200,
        None,
    ),
}

# The others are refused by the worker's own count, before an engine has a part in it.
OF_THE_ENGINE = [
    "invalid items",
    "invalid messages",
    "a text",
    "a text in a message",
    "a text in a part",
    "a text to truncate",
    "a text to tokenize",
    "values",
]


def encoded(body):
    return body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()


class Pings(threading.Thread):
    """Asks /ping again and again until `stop`."""

    def __init__(self, worker):
        super().__init__(daemon=True)
        self.worker, self.statuses, self.stop = worker, set(), threading.Event()

    def run(self):
        with httpx.Client(base_url=self.worker.base_url, timeout=120) as client:
            while not self.stop.wait(PING_INTERVAL_SECONDS):
                self.statuses.add(client.get("/ping").status_code)


@pytest.mark.parametrize("endpoint", ["http"], indirect=True)
@pytest.mark.parametrize("name", ATTACKS)
def test_a_large_body_stops_no_other_request(endpoint, name):
    assert_harmless(endpoint.platform, name)


@pytest.mark.parametrize("endpoint", ["http-sglang"], indirect=True)
@pytest.mark.parametrize("name", OF_THE_ENGINE)
def test_a_large_body_stops_no_other_request_of_sglang(endpoint, name):
    assert_harmless(endpoint.platform, name)


def assert_harmless(worker, name):
    """Check that a stream beside the body is complete, and that each ping is answered."""
    path, body, status, error = ATTACKS[name]
    content, answers = encoded(body()), []
    victim = threading.Thread(
        target=lambda: answers.append(worker.call("POST", COMPLETIONS, json=VICTIM))
    )
    pings = Pings(worker)
    pings.start()
    victim.start()
    is_streaming = "llm_worker_streams_active 1.0"
    wait_until(lambda: answers or is_streaming in worker.call("GET", "/metrics").text)
    answer = worker.call("POST", path, content=content)
    victim.join(120)
    pings.stop.set()
    pings.join(120)
    assert answer.status_code == status
    if error:
        assert error in answer.json()["error"]["message"]
    *_, usage, done = answers[0].text.strip().split("\n\n")
    assert done == "data: [DONE]"
    assert json.loads(usage.removeprefix("data: "))["usage"]["completion_tokens"] == TOKENS
    assert pings.statuses == {200}


@pytest.mark.parametrize("endpoint", ["http", "http-sglang"], indirect=True)
def test_large_bodies_leave_no_memory_behind(endpoint):
    """A dozen of each kind, after one of each; four at a time.

    That freed memory goes back to the system is in tests/unit/handler/serve/test_memory.py.
    """
    worker, process = endpoint.platform, psutil.Process(endpoint.process.pid)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    image["image_url"]["url"] += "A" * (MAX_BODY_BYTES - 200)
    bodies = [
        (CHAT, encoded({"messages": [{"role": "user", "content": [image]}]}), 400),
        (COMPLETIONS, encoded({"prompt": WORDS}), 400),
        (COMPLETIONS, encoded({"prompt": "Hi", "max_tokens": 1, "metadata": WORDS}), 200),
        (CHAT, nested_media(), 413),
    ]

    def send():
        statuses = []

        def post(path, content, _):
            statuses.append(worker.call("POST", path, content=content).status_code)

        threads = [threading.Thread(target=post, args=body) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        return sorted(statuses)

    expected = sorted(status for *_, status in bodies)
    assert send() == expected
    before = process.memory_info().rss
    assert [send() for _ in range(REPEATS)] == [expected] * REPEATS
    wait_until(lambda: process.memory_info().rss < before * (1 + MAX_GROWTH), 90)
