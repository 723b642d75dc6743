"""The workers that the tests share, for a start of an engine takes 10 to 30 seconds.

| fixture        | engines      | model                       | platform                           |
| -------------- | ------------ | --------------------------- | ---------------------------------- |
| `endpoint`     | vLLM, SGLang | demo, quantized with vLLM   | the Runpod platform in small       |
|                | vLLM, SGLang | demo, quantized with vLLM   | HTTP; a parameter of `HTTP`        |
| `queue_worker` | vLLM, SGLang | demo, unquantized           | the Runpod platform in small       |

A test starts a worker of its own where it needs settings that change the engine, or where it ends
the worker in a way of its own.
"""

import json
import re
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest

from runpod_local import Job, Platform, running_platform, running_worker
from tests.support.checkpoints import lora
from tests.support.conditions import wait_until
from tests.support.environment import (
    NAME,
    PYTHON,
    START_SECONDS,
    VARIANT,
    worker_command,
    worker_environment,
)
from tests.support.http_worker import HttpWorker, free_port, running_http_worker

HTTP = {"http": "vllm", "http-sglang": "sglang"}
ANSWERS = {  # text and completion tokens
    "vllm": ("The capital of France is Paris, France.", 10),
    "sglang": ("The capital of France is Paris.", 8),
}
# What PREFIX_WARMUP prefills: more than one block of 128 tokens, vLLM's on a CPU.
PREFIX = {
    "messages": [
        {
            "role": "system",
            "content": "You answer questions about geography. " * 40 + "Call a tool if need be.",
        }
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "find_city",
                "description": "Find a city",
                "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
            },
        }
    ],
}
KV_CACHE_BYTES = 256 << 20
GAUGES = {
    "vllm": ("vllm:num_requests_running", "vllm:kv_cache_usage_perc"),
    "sglang": ("sglang:num_running_reqs", "sglang:token_usage"),
}


@dataclass
class Endpoint:
    """A ready worker, and the platform that it polls or its own HTTP server."""

    platform: Platform | HttpWorker
    process: psutil.Process
    log: Path
    engine: str
    first_job: Job | None = None

    @property
    def model(self):
        """The model's name in requests."""
        return f"{NAME}-{VARIANT[self.engine]}"

    def constrained(self, *texts):
        """Return the engine's own request field that constrains the output to one of the texts."""
        if self.engine == "vllm":
            return {"structured_outputs": {"choice": list(texts)}}
        return {"regex": "|".join(f"({re.escape(text)})" for text in texts)}

    def run(self, job_input, timeout_seconds=300):
        """Submit a job and return it when it is finished."""
        return self.platform.wait(self.platform.submit(job_input), timeout_seconds)

    def engine_load(self):
        """Return the number of running requests and the share of the KV cache in use.

        The engine updates its gauges only when it steps, so a token is requested first. SGLang's
        usage leaves out cached blocks that no request uses, and is rounded to a hundredth.
        """
        self.run({"prompt": "Hi", "max_tokens": 1})
        text = self.run({"route": "metrics"}).output[0]

        def gauge(name):
            return float(re.search(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE)[1])

        running, usage = GAUGES[self.engine]
        return {"running": gauge(running), "kv_cache_usage": gauge(usage)}


@dataclass
class QueueWorker:
    """A worker with the unquantized model, its platform and the port of its metrics.

    A stream of it is flushed every two seconds.
    """

    platform: Platform
    process: "subprocess.Popen[bytes]"
    engine: str
    metrics_port: int
    constrained = Endpoint.constrained

    def run(self, job_input, timeout_seconds=300):
        """Submit a job and return it when it is finished."""
        return self.platform.wait(self.platform.submit(job_input), timeout_seconds)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Order the tests that share a worker: first those of its start, last the one of its end.

    pytest itself groups the tests with the same parameter of a session's fixture.
    """

    def position(item):
        if item.get_closest_marker("sees_the_start"):
            return 0
        if item.get_closest_marker("ends_the_worker"):
            return 3
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        return 1 if parameters.get("endpoint") in HTTP else 2

    items.sort(key=position)


def endpoint_environment(engine, folder, **more):
    """Return the environment of the worker with tool calls, a prefix and a LoRA adapter."""
    prefixes = folder / "prefixes.json"
    prefixes.write_text(json.dumps([PREFIX]))
    return worker_environment(
        VARIANT[engine],
        engine,
        TOOL_CALL_PARSER="hermes",
        ENABLE_AUTO_TOOL_CHOICE="true",
        HF_TOKEN="hf_not_to_be_seen",
        PREFIX_WARMUP=str(prefixes),
        LORA_MODULES=json.dumps([{"name": "org/other", "path": str(lora(folder / "other"))}]),
        **{"MAX_TOP_LOGPROBS" if engine == "sglang" else "MAX_LOGPROBS": "50"},
        **more,
    )


@contextmanager
def starting_http_worker(engine, folder):
    """Run a worker that serves HTTP; yields while its engine is starting.

    Its queue is long enough for the load of test_http_worker.py, and its drain for a long stream.
    """
    log = folder / "log"
    environment = endpoint_environment(engine, folder, MAX_QUEUE="1000", DRAIN_TIMEOUT="300")
    with (
        log.open("wb") as file,
        running_http_worker(
            worker_command(engine), environment, ready_within_seconds=None, log=file
        ) as worker,
    ):
        wait_until(lambda: worker.ping() in (200, 204), 60)  # 200 where the engine was faster
        yield Endpoint(worker, psutil.Process(worker.process.pid), log, engine)


@pytest.fixture(scope="session")
def starting_http_endpoint(tmp_path_factory):
    """A worker with vLLM that serves HTTP, whose engine is starting when it is first asked for."""
    with starting_http_worker("vllm", tmp_path_factory.mktemp("http-worker")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session", params=PYTHON)
def endpoint(request, tmp_path_factory):
    """One worker for each engine, with the demo model, tool calls, a prefix and a LoRA adapter.

    With a parameter of `HTTP` it is one that serves HTTP.
    """
    if request.param == "http":
        http = request.getfixturevalue("starting_http_endpoint")
        http.platform.wait_for_ping(200, START_SECONDS)
        yield http
        return
    if request.param in HTTP:
        folder = tmp_path_factory.mktemp(request.param)
        with starting_http_worker(HTTP[request.param], folder) as http:
            http.platform.wait_for_ping(200, START_SECONDS)
            yield http
        return
    engine = request.param
    folder = tmp_path_factory.mktemp("worker")
    log = folder / "log"
    with (
        log.open("wb") as file,
        running_platform(ping_interval_seconds=1) as platform,
        running_worker(
            platform,
            worker_command(engine),
            endpoint_environment(engine, folder),
            ready_within_seconds=START_SECONDS,
            log=file,
        ) as worker,
    ):
        made = Endpoint(platform, psutil.Process(worker.pid), log, engine)
        question = {"role": "user", "content": "What is the capital of France?"}
        made.first_job = made.run(
            {**PREFIX, "messages": [*PREFIX["messages"], question], "max_tokens": 1}
        )
        yield made


@pytest.fixture(scope="session", params=PYTHON)
def queue_worker(request):
    """One worker for each engine with the unquantized demo model, METRICS_PORT and tool calls.

    vLLM's has a KV cache of `KV_CACHE_BYTES`.
    """
    engine, port = request.param, free_port()
    cache = {"KV_CACHE_MEMORY_BYTES": str(KV_CACHE_BYTES)} if engine == "vllm" else {}
    environment = worker_environment(
        "bf16",
        engine,
        METRICS_PORT=str(port),
        TOOL_CALL_PARSER="hermes",
        ENABLE_AUTO_TOOL_CHOICE="true",
        MAX_POSTS_PER_SECOND="0.5",
        **cache,
    )
    with (
        running_platform(ping_interval_seconds=1) as platform,
        running_worker(
            platform, worker_command(engine), environment, ready_within_seconds=START_SECONDS
        ) as process,
    ):
        yield QueueWorker(platform, process, engine, port)


@pytest.fixture
def paris(endpoint):
    """The demo model's answer about France's capital: its variants differ in a word."""
    return ANSWERS[endpoint.engine][0]


@pytest.fixture(scope="session")
def client(endpoint):
    """OpenAI's client on the endpoint's OpenAI route."""
    with openai.OpenAI(
        base_url=endpoint.platform.openai_base_url,
        api_key=endpoint.platform.api_key,
        max_retries=0,
    ) as made:
        yield made
