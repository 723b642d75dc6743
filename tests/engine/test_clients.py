"""Clients that people point at an endpoint, each run as docs/clients.md shows it.

Each is a program in an environment of its own: what it prints is compared. The model is scripted
(tests/support/scripted_model.py), the engine is vLLM; OpenAI's and Anthropic's own clients are in
test_endpoint.py.
"""

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import openai
import pytest

from runpod_local import running_platform, running_worker
from tests.support.checkpoints import tiny_llama
from tests.support.environment import (
    PYTHON,
    ROOT,
    START_SECONDS,
    clean_environment,
    worker_command,
    worker_environment,
)
from tests.support.http_worker import KEY, running_http_worker
from tests.support.scripted_model import scripted_model

CLIENTS = ROOT / ".venv-clients"
INTERPRETERS = {  # where it is not the clients' own
    "llama_index_client": CLIENTS / "llama-index/bin/python",
    "runpod_client": PYTHON["vllm"],
}
TIMEOUT_SECONDS = 120
TEXTS = ["Paris is a city.", "Bread is baked."]
CHAT = "The capital of France is Paris."
TOOLS = "18 degrees and a clear sky!"
STRUCTURED = "Weather(city='Paris', sky='clear')"
# vLLM's own level is `auto`: only tools that a client calls strict are constrained.
STRICT_LEVEL = {"queue": "auto", "http": "parameter"}


@dataclass
class Served:
    """The base URLs of a model that chats and of one that embeds."""

    strict_level: str
    openai: str
    embeddings: str
    runpod: str

    def run(self, script, litellm_prefix="hosted_vllm"):
        """Run a client's program, and return the lines that it prints."""
        path = ROOT / "tests/clients" / script
        environment = clean_environment(
            BASE_URL=self.openai,
            EMBEDDINGS_BASE_URL=self.embeddings,
            RUNPOD_ENDPOINT_BASE_URL=self.runpod,
            ENDPOINT_ID="demo",
            API_KEY=KEY,
            MODEL="org/chat",
            EMBEDDINGS_MODEL="org/embeddings",
            LITELLM_LOCAL_MODEL_COST_MAP="True",  # it would be fetched
        )
        ran = subprocess.run(
            program_command(path),
            env=environment,
            cwd=CLIENTS,  # where Node.js looks for packages
            input=path.read_text().replace("hosted_vllm/", f"{litellm_prefix}/"),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()

    def vectors(self):
        """Return the embeddings of `TEXTS`, without a client."""
        answer = httpx.post(
            f"{self.embeddings}/embeddings",
            headers={"Authorization": f"Bearer {KEY}"},
            json={"model": "org/embeddings", "input": TEXTS},
            timeout=TIMEOUT_SECONDS,
        )
        return [each["embedding"] for each in answer.raise_for_status().json()["data"]]


def program_command(path):
    """Return the command that runs a program from its standard input."""
    if path.suffix == ".mjs":
        return [str(CLIENTS / "bin/node"), "--input-type=module"]
    return [str(INTERPRETERS.get(path.stem, CLIENTS / "bin/python")), "-"]


@contextmanager
def serving(front_end, **environ):
    """Run a worker with vLLM; yields its own HTTP server, or the platform that it polls."""
    command = worker_command("vllm")
    environment = worker_environment(KV_CACHE_MEMORY_BYTES=str(64 << 20), **environ)
    ready = {"ready_within_seconds": START_SECONDS}
    if front_end == "http":
        with running_http_worker(command, environment, **ready) as worker:
            yield worker
    else:
        with (
            running_platform(api_key=KEY) as platform,
            running_worker(platform, command, environment, **ready),
        ):
            yield platform


@pytest.fixture(scope="module", params=["queue", "http"])
def served(request, tmp_path_factory):
    """A worker whose model chats, and one whose model embeds."""
    folder = tmp_path_factory.mktemp("clients")
    with (
        serving(
            request.param,
            MODEL_NAME=str(scripted_model(folder / "chat")),
            SERVED_MODEL_NAME="org/chat",
            TOOL_CALL_PARSER="hermes",
            ENABLE_AUTO_TOOL_CHOICE="true",
            TOOL_STRICT_LEVEL=STRICT_LEVEL[request.param],
        ) as chat,
        serving(
            request.param,
            MODEL_NAME=str(tiny_llama(folder / "embeddings")),
            SERVED_MODEL_NAME="org/embeddings",
            RUNNER="pooling",
        ) as embeddings,
    ):
        queue_url = chat.base_url.removesuffix("/demo")
        runpod = f"{chat.base_url}/v2" if request.param == "http" else queue_url
        yield Served(
            STRICT_LEVEL[request.param], chat.openai_base_url, embeddings.openai_base_url, runpod
        )


def check(lines, *expected, vectors=None):
    """Compare what was printed; the last line is the embeddings."""
    if vectors is not None:
        *lines, last = lines
        for printed, right in zip(json.loads(last), vectors, strict=True):
            assert printed == pytest.approx(right, abs=1e-3)
    assert lines == list(expected)


def test_langchain(served):
    """The agent of its first pages calls the tool; its embeddings are sent as texts."""
    lines = served.run("langchain_client.py")
    check(lines, CHAT, CHAT, TOOLS, TOOLS, "city='Paris' sky='clear'", vectors=served.vectors())


def test_llama_index(served):
    """The same with its agent, and a structured answer by response_format."""
    lines = served.run("llama_index_client.py")
    check(lines, CHAT, CHAT, TOOLS, TOOLS, STRUCTURED, vectors=served.vectors())


@pytest.mark.parametrize("prefix", ["hosted_vllm", "openai"])
def test_litellm(served, prefix):
    """Its caller runs the loop; a streamed call is put together from its deltas."""
    lines = served.run("litellm_client.py", litellm_prefix=prefix)
    call = "get_weather {'city': 'Paris'}"
    check(lines, CHAT, CHAT, TOOLS, call, STRUCTURED, vectors=served.vectors())


def test_openai_agents(served):
    """Chat completions first, then responses."""
    lines = served.run("openai_agents_client.py")
    check(lines, *[CHAT, CHAT, TOOLS, TOOLS, STRUCTURED] * 2)


def test_pydantic_ai(served):
    """A structured answer by a tool that it makes, and by response_format."""
    lines = served.run("pydantic_ai_client.py")
    structured = [STRUCTURED, STRUCTURED]
    check(lines, CHAT, CHAT, TOOLS, TOOLS, *structured, vectors=served.vectors())


def test_vercel_ai_sdk(served):
    """The one that is not Python's."""
    lines = served.run("ai_sdk_client.mjs")
    structured = "{ city: 'Paris', sky: 'clear' }"
    check(lines, CHAT, CHAT, TOOLS, TOOLS, structured, vectors=served.vectors())


def test_runpod(served):
    """Runpod's routes, on the platform and on a worker that serves them itself."""
    lines = served.run("runpod_client.py")
    check(lines, CHAT, f"COMPLETED {CHAT}", CHAT, "['org/chat']", "1")


def test_a_tool_that_is_not_strict(served):
    """TOOL_STRICT_LEVEL=parameter: a schema holds, and a response format leaves room for a call."""
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}}
    schema |= {"required": ["city"], "additionalProperties": False}
    function = {"name": "get_weather", "parameters": schema}
    chosen = {"type": "function", "function": {"name": "get_weather"}}
    answer_format = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    with openai.OpenAI(base_url=served.openai, api_key=KEY) as client:

        def ask(**more):
            message = (
                client.chat.completions.create(
                    model="org/chat",
                    messages=[{"role": "user", "content": "What is the weather in Paris?"}],
                    tools=[{"type": "function", "function": function}],
                    **more,
                )
                .choices[0]
                .message
            )
            calls = [json.loads(call.function.arguments) for call in message.tool_calls or []]
            return message.content or "", calls

        if served.strict_level == "auto":
            assert ask(response_format=answer_format) == ('{"city":"Paris"}', [])
        else:
            assert ask(response_format=answer_format) == ("", [{"city": "Paris"}])
            assert ask(tool_choice=chosen) == ("", [{"city": "Paris"}])
            assert ask(tool_choice="required") == ("", [{"city": "Paris"}])
