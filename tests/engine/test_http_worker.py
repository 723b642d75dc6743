"""The HTTP door of a real worker: from its start to its end, under a load that hangs and leaves.

What callers do through it stands in test_endpoint.py, its limits in test_http.py.
"""

import asyncio
import json
import re
import signal
import threading

import httpx
import psutil
import pytest

from runpod_local import running_platform, running_worker
from tests.support.environment import START_SECONDS, VARIANT, worker_command, worker_environment
from tests.support.http_worker import free_port, running_http_worker
from tests.support.processes import arguments

CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
STORY = {"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": True}
CONNECTIONS = 500


def value(text, series):
    """Return the value of a series of an exposition; `series` begins its line."""
    found = re.search(rf"^{re.escape(series)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    assert found, series
    return float(found[1])


def post(worker, path, body):
    return worker.call("POST", path, json=body)


def settled(worker):
    """Return requests that are open, in the worker and in the engine, once nothing changes."""
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


def test_from_the_start_over_a_rough_load_to_the_end():
    """500 connections, half of which hang and half of which leave, take nothing with them.

    The load is a good client's among them: it is served. At the end SIGTERM lets a stream finish,
    and leaves no process behind.
    """
    environ = worker_environment("awq", VLLM_LOGGING_LEVEL="ERROR", MAX_QUEUE="1000")
    with running_http_worker(worker_command("vllm"), environ, ready_within_seconds=None) as worker:
        worker.wait_for_ping(204, 20)  # long before the engine is up
        worker.wait_for_ping(200, START_SECONDS)
        asyncio.run(rough_load(worker))
        assert worker.ping() == 200
        answer = post(worker, "/v1/chat/completions", CHAT | {"temperature": 0}).json()
        assert "Paris" in answer["choices"][0]["message"]["content"]
        assert settled(worker) == [0.0, 0.0, 0.0]
        text = worker.call("GET", "/metrics").text
        cancelled = 'llm_worker_requests_total{outcome="cancelled",route="/v1/completions"}'
        assert value(text, cancelled) >= CONNECTIONS / 2
        family = psutil.Process(worker.process.pid).children(recursive=True)
        stream = threading.Thread(target=stream_to_the_end, args=(worker, ends := []))
        stream.start()
        while value(worker.call("GET", "/metrics").text, "llm_worker_streams_active") != 1:
            pass
        worker.process.send_signal(signal.SIGTERM)
        worker.wait_for_ping(503, 5)
        stream.join(60)
        assert ends == ["data: [DONE]"]
        assert worker.process.wait(30) == 0
        assert [process for process in family if process.is_running()] == []


def stream_to_the_end(worker, ends):
    answer = post(worker, "/v1/completions", STORY | {"max_tokens": 100})
    ends.append(answer.text.strip().rpartition("\n\n")[2])


async def rough_load(worker):
    """Open the connections at once, each with a way to hang or to leave."""
    body = json.dumps(STORY).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {worker.api_key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    left, hanging = asyncio.Event(), []

    async def leaves(number):
        """Ask for a long story and go, at once or after its beginning."""
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(head + body)
        await writer.drain()
        if number % 25 == 0:
            await reader.readuntil(b"data: ")
        else:
            await asyncio.sleep(0.5)
        writer.transport.abort()

    async def hangs(number):
        """Send nothing, half a head, a head, half a body; a few ask and never read.

        These few hold a place until they leave: as many as there are would be a full worker.
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
    await asyncio.gather(*gone)
    left.set()
    await asyncio.gather(*hung)
    for writer in hanging:
        writer.transport.abort()


def test_a_dead_engine_ends_the_worker_with_code_5():
    """Who waits gets an answer, and the ping is none before the process is gone."""
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
        while value(worker.call("GET", "/metrics").text, "llm_worker_requests_active") != 2:
            pass
        core.kill()
        for thread in threads:
            thread.join(30)
        assert worker.process.wait(30) == 5
        assert sorted(answer.status_code for answer in answers) == [200, 503]
        for answer in answers:
            error = json.loads(answer.text.strip().rpartition("data: ")[2])["error"]
            assert (error["code"], error["message"]) == (
                *(503, "The engine died; the worker is being replaced."),
            )
        assert [process for process in family if process.is_running()] == []


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_queues_worker_has_the_same_metrics_with_each_engine(engine):
    """As a job, and on METRICS_PORT; SGLang's several processes count in one exposition."""
    port = free_port()
    environ = worker_environment(VARIANT[engine], engine, METRICS_PORT=str(port))
    with (
        running_platform() as platform,
        running_worker(
            platform, worker_command(engine), environ, ready_within_seconds=START_SECONDS
        ),
    ):
        job = {**CHAT, "max_tokens": 4, "stream": True}
        for _ in range(2):
            platform.wait(platform.submit(job), 60)
        scraped = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
        [asked] = platform.wait(platform.submit({"route": "metrics"}), 60).output
        for text in (scraped, asked):
            route = 'route="/v1/chat/completions"'
            assert value(text, f'llm_worker_requests_total{{outcome="ok",{route}}}') == 2
            assert value(text, 'llm_worker_tokens_total{kind="completion"}') == 8
            assert value(text, 'llm_worker_posts_total{outcome="taken"}') >= 4
            assert value(text, "llm_worker_post_bytes_total") > 1000
            assert value(text, "llm_worker_engine_up") == 1
            assert value(text, "llm_worker_time_to_first_token_seconds_count") == 2
            assert 0 <= value(text, "llm_worker_kv_cache_usage_ratio") <= 1
            assert value(text, 'llm_worker_start_seconds{stage="imports"}') > 0
            assert f"\n{engine}:" in text
            families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
            assert sorted(families) == sorted(set(families))
