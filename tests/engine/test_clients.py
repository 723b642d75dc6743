"""Clients that people point at an endpoint, each run as docs/clients.md shows it.

Each is a program in an environment of its own: what it prints is compared. The model is scripted
(tests/support/scripted_model.py), the engine is vLLM; OpenAI's and Anthropic's own clients are in
test_endpoint.py.
"""

import json
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
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
TIMEOUT_SECONDS = 120
QUIET = {  # what a client would ask the internet for beside its work
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PYTHONDONTWRITEBYTECODE": "1",
}
TEXTS = ["Paris is a city.", "Bread is baked."]
CHAT = "The capital of France is Paris."
TOOLS = "18 degrees and a clear sky!"
STRUCTURED = "Weather(city='Paris', sky='clear')"


@dataclass
class Served:
    """The base URLs of a model that chats and of one that embeds."""

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
            **QUIET,
        )
        ran = subprocess.run(
            command(path),
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
        )
        return [each["embedding"] for each in answer.raise_for_status().json()["data"]]


def command(path):
    """Return the command that runs a program from its standard input."""
    if path.suffix == ".mjs":
        return [str(CLIENTS / "bin/node"), "--input-type=module"]
    homes = {
        "runpod_client": PYTHON["vllm"],
        "llama_index_client": CLIENTS / "llama-index/bin/python",
    }
    return [str(homes.get(path.stem, CLIENTS / "bin/python")), "-"]


@pytest.fixture(scope="module", params=["queue", "http"])
def served(request, tmp_path_factory):
    """Two workers with vLLM, behind the Runpod platform in small or serving HTTP themselves."""
    folder = tmp_path_factory.mktemp("clients")
    chat = worker_environment(
        MODEL_NAME=str(scripted_model(folder / "chat")),
        SERVED_MODEL_NAME="org/chat",
        TOOL_CALL_PARSER="hermes",
        ENABLE_AUTO_TOOL_CHOICE="true",
    )
    embeddings = worker_environment(
        MODEL_NAME=str(tiny_llama(folder / "embeddings")),
        SERVED_MODEL_NAME="org/embeddings",
        RUNNER="pooling",
    )
    with ExitStack() as stack:

        def serve(environment):
            if request.param == "http":
                worker = running_http_worker(
                    worker_command("vllm"), environment, ready_within_seconds=START_SECONDS
                )
                return stack.enter_context(worker)
            platform = stack.enter_context(running_platform(api_key=KEY))
            stack.enter_context(
                running_worker(
                    platform,
                    worker_command("vllm"),
                    environment,
                    ready_within_seconds=START_SECONDS,
                )
            )
            return platform

        chats, embeds = serve(chat), serve(embeddings)
        runpod = (
            f"{chats.base_url}/v2"
            if request.param == "http"
            else chats.base_url.removesuffix("/demo")
        )
        yield Served(chats.openai_base_url, embeds.openai_base_url, runpod)


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
