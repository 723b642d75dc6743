"""What the tests share: the demo model, a clean environment, and one worker with the real engine.

The engine starts once a session, in a real worker that the real SDK connects to the platform in
small. Only tests of a worker's start and end have workers of their own.
"""

import json
import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest

from handler.engine.vllm.adapter import VllmAdapter
from handler.environ import load
from handler.model.resolve import locate
from tests.checkpoints import lora
from tests.http_worker import HttpWorker, running_http_worker
from tests.platform import Job, Platform, running_platform, running_worker

# A shell lets what it starts in the background ignore Ctrl-C, and that would be inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"
NAME = "smollm2-135m-instruct"
PYTHON = {"vllm": sys.executable, "sglang": str(ROOT / ".venv-sglang/bin/python")}
WORKER = [sys.executable, "-m", "handler"]
# SGLang computes no quantized layers on a CPU, so there the demo model is the unquantized one.
VARIANT = {"vllm": "awq", "sglang": "bf16"}
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
GAUGES = {
    "vllm": ("vllm:num_requests_running", "vllm:kv_cache_usage_perc"),
    "sglang": ("sglang:num_running_reqs", "sglang:token_usage"),
}
START_SECONDS = 240  # a cold machine compiles bytecode and inspects the model class first


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment of a container: what this process needs to run, and `more`."""
    kept = {"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"}
    return {name: value for name, value in os.environ.items() if name in kept} | more


def worker_environment(variant: str = "awq", engine: str = "vllm", **more: str) -> dict[str, str]:
    """Return the environment of a worker with a variant of the demo model."""
    # One thread: two that wait for each other crawl where others use the same cores.
    defaults = {"MODEL_NAME": str(MODELS / f"{NAME}-{variant}"), "OMP_NUM_THREADS": "1"}
    return clean_environment(**defaults | {"ENGINE": engine} | more)


def worker_command(engine: str) -> list[str]:
    """Return the worker's command in the environment of an engine."""
    return [PYTHON[engine], "-m", "handler"]


def check(folder: Path, **environ: str) -> VllmAdapter:
    """Return the adapter of a model after its check, its parsed flags included."""
    environ["MODEL_NAME"] = str(folder)
    settings = load(environ)
    adapter = VllmAdapter(settings, locate(settings), environ)
    before = dict(os.environ)
    try:
        adapter.check()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return adapter


@pytest.fixture
def model(tmp_path):
    """A folder that looks like a checkpoint to the parser."""

    def make(quantization=None, **config):
        folder = tmp_path / "tiny"
        folder.mkdir(exist_ok=True)
        config |= {"quantization_config": quantization} if quantization else {}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").touch()
        return folder

    return make


@dataclass
class Endpoint:
    """A worker that is ready, and the platform it serves, or its own HTTP door."""

    platform: Platform | HttpWorker
    process: psutil.Process
    log: Path
    engine: str
    first_job: Job | None = None

    @property
    def model(self):
        """The name that callers use."""
        return f"{NAME}-{VARIANT[self.engine]}"

    def constrained(self, *texts):
        """Return the engine's own field that makes it write one of the texts."""
        if self.engine == "vllm":
            return {"structured_outputs": {"choice": list(texts)}}
        return {"regex": "|".join(f"({re.escape(text)})" for text in texts)}

    def run(self, job_input, timeout_seconds=120):
        """Submit a job and return it when it is over."""
        return self.platform.wait(self.platform.submit(job_input), timeout_seconds)

    def engine_load(self):
        """Return how many requests run and how much of the KV cache they hold.

        The engine refreshes its gauges only when it steps, so a token is asked for first. SGLang
        shows no cache that nobody uses as held, and rounds to a hundredth.
        """
        self.run({"prompt": "Hi", "max_tokens": 1})
        text = self.run({"route": "metrics"}).output[0]

        def gauge(name):
            return float(re.search(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE)[1])

        running, usage = GAUGES[self.engine]
        return {"running": gauge(running), "kv_cache_usage": gauge(usage)}


@pytest.fixture(scope="session", params=PYTHON)
def endpoint(request, tmp_path_factory):
    """The one worker of the session with each engine, with the demo model and hermes tool calls.

    A module that asks for `http` as well has vLLM once more, behind the HTTP door.
    """
    engine = "vllm" if request.param == "http" else request.param
    folder = tmp_path_factory.mktemp("worker")
    log = folder / "log"
    prefixes = folder / "prefixes.json"
    prefixes.write_text(json.dumps([PREFIX]))
    environment = worker_environment(
        VARIANT[engine],
        engine,
        TOOL_CALL_PARSER="hermes",
        ENABLE_AUTO_TOOL_CHOICE="true",
        HF_TOKEN="hf_not_to_be_seen",
        PREFIX_WARMUP=str(prefixes),
        LORA_MODULES=json.dumps([{"name": "org/other", "path": str(lora(folder / "other"))}]),
        **({"MAX_LOGPROBS": "50"} if engine == "vllm" else {}),
    )
    command = worker_command(engine)
    with log.open("wb") as file:
        if request.param == "http":
            with running_http_worker(
                command, environment, ready_within_seconds=START_SECONDS, log=file
            ) as worker:
                yield Endpoint(worker, psutil.Process(worker.process.pid), log, engine)
            return
        with (
            running_platform(ping_interval_seconds=1) as platform,
            running_worker(
                platform, command, environment, ready_within_seconds=START_SECONDS, log=file
            ) as worker,
        ):
            made = Endpoint(platform, psutil.Process(worker.pid), log, engine)
            question = {"role": "user", "content": "What is the capital of France?"}
            made.first_job = made.run(
                {**PREFIX, "messages": [*PREFIX["messages"], question], "max_tokens": 1}
            )
            yield made


@pytest.fixture
def paris(endpoint):
    """Return what the demo model says of France's capital: its variants differ in a word."""
    return ANSWERS[endpoint.engine][0]


@pytest.fixture(scope="session")
def client(endpoint):
    """The official client on the endpoint's OpenAI route."""
    with openai.OpenAI(
        base_url=endpoint.platform.openai_base_url,
        api_key=endpoint.platform.api_key,
        max_retries=0,
    ) as made:
        yield made
