"""The ends of a worker that serves HTTP: Ctrl-C after a rough load, and the engine's death.

What callers do is in test_endpoint.py, limits are in tests/integration/handler/serve/http.
"""

import asyncio
import json
import os
import signal
import threading

import httpx
import psutil
import pytest

from tests.support.conditions import wait_until
from tests.support.environment import START_SECONDS, worker_command, worker_environment
from tests.support.expositions import value
from tests.support.http_worker import running_http_worker
from tests.support.processes import arguments, running

CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
STORY = {"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": True}
CONNECTIONS = 500


def post(worker, path, body):
    return worker.call("POST", path, json=body)


def metric(worker, series):
    """Return the value of a series of /metrics, 0 if it is not there yet."""
    return value(worker.call("GET", "/metrics").text, series, missing=0)


def open_requests(worker):
    return metric(worker, "llm_worker_requests_active")


def settled(worker):
    """Return the open requests of the worker and of the engine, once nothing changes."""
    for _ in range(100):
        post(worker, "/v1/completions", {"prompt": "Hi", "max_tokens": 1})
        text = worker.call("GET", "/metrics").text
        left = [
            value(text, f"llm_worker_{name}")
            for name in ("requests_active", "streams_active", "engine_running_requests")
        ]
        if left == [0.0, 0.0, 0.0]:
            return left
    return left


CANCELLED = 'llm_worker_requests_total{outcome="cancelled",route="/v1/completions"}'


@pytest.mark.ends_the_worker
@pytest.mark.parametrize("endpoint", ["http"], indirect=True)
def test_a_worker_survives_a_rough_load_and_drains_on_ctrl_c(endpoint):
    """500 connections, half of which hang and half of which leave, take nothing with them.

    A good client among them is served. At the end Ctrl-C, which a terminal sends to the engine's
    processes too, lets a stream finish, and leaves no process behind.
    """
    worker = endpoint.platform
    cancelled_before = metric(worker, CANCELLED)
    asyncio.run(rough_load(worker))
    assert worker.ping() == 200
    answer = post(worker, "/v1/chat/completions", CHAT | {"temperature": 0}).json()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert settled(worker) == [0.0, 0.0, 0.0]
    assert metric(worker, CANCELLED) - cancelled_before >= CONNECTIONS / 2
    family = endpoint.process.children(recursive=True)
    stream = threading.Thread(target=stream_to_the_end, args=(worker, ends := []))
    stream.start()
    wait_until(lambda: metric(worker, "llm_worker_streams_active") == 1)
    os.killpg(worker.process.pid, signal.SIGINT)
    worker.wait_for_ping(503, 60)
    stream.join(300)
    assert ends == ["length", "data: [DONE]"]
    assert worker.process.wait(300) == 0
    assert running(family) == []


def stream_to_the_end(worker, ends):
    answer = post(worker, "/v1/completions", STORY | {"max_tokens": 1000})
    *_, last, done = answer.text.strip().split("\n\n")
    ends += [json.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"], done]


async def rough_load(worker):
    """Open all connections at once; each hangs or leaves in its own way."""
    body = json.dumps(STORY).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {worker.api_key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    left, arrived, hanging = asyncio.Event(), asyncio.Event(), []

    async def leaves(number):
        """Start a long stream and disconnect, after its first event or whatever came of it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(head + body)
        await writer.drain()
        if number % 25 == 0:
            await reader.readuntil(b"data: ")
        else:
            await arrived.wait()
        writer.transport.abort()

    async def hangs(number):
        """Send nothing, half a head, a head, half a body; a few send all and never read.

        Each of these few holds a slot until it leaves; more of them would fill the worker.
        """
        _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        hanging.append(writer)
        halves = (b"", head[:30], head, head + body[:9])
        writer.write(head + body if number % 10 == 0 else halves[number % 4])
        await writer.drain()
        await left.wait()

    async def is_served():
        async with httpx.AsyncClient(timeout=120) as client:
            headers = {"Authorization": f"Bearer {worker.api_key}"}
            url = f"{worker.base_url}/v1/models"
            return [(await client.get(url, headers=headers)).status_code for _ in range(20)]

    hung = [asyncio.create_task(hangs(number)) for number in range(CONNECTIONS // 2)]
    gone = [asyncio.create_task(leaves(number)) for number in range(CONNECTIONS // 2)]
    assert await is_served() == [200] * 20
    # Of those that send all, some leave by themselves.
    stay = CONNECTIONS // 2 + CONNECTIONS // 20 - CONNECTIONS // 50
    await asyncio.to_thread(wait_until, lambda: open_requests(worker) >= stay, 60)
    arrived.set()
    await asyncio.gather(*gone)
    left.set()
    await asyncio.gather(*hung)
    for writer in hanging:
        writer.transport.abort()


def test_a_dead_engine_ends_the_worker_with_code_5():
    """Requests that run get an answer before the process is gone."""
    environ = worker_environment("awq", VLLM_LOGGING_LEVEL="ERROR")
    with running_http_worker(
        worker_command("vllm"), environ, ready_within_seconds=START_SECONDS
    ) as worker:
        family = psutil.Process(worker.process.pid).children(recursive=True)
        [core] = [process for process in family if "EngineCore" in arguments(process)]
        answers = []
        asked = [STORY, STORY | {"stream": False}]
        threads = [
            threading.Thread(
                target=lambda body=body: answers.append(post(worker, "/v1/completions", body))
            )
            for body in asked
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: metric(worker, "llm_worker_requests_active") == 2)
        core.kill()
        for thread in threads:
            thread.join(120)
        assert worker.process.wait(120) == 5
        assert sorted(answer.status_code for answer in answers) == [200, 503]
        for answer in answers:
            error = json.loads(answer.text.strip().rpartition("data: ")[2])["error"]
            assert (error["code"], error["message"]) == (
                *(503, "The engine died; the worker is being replaced."),
            )
        assert running(family) == []
