"""The commands as a user runs them, against Runpod's API as it is documented.

The live platform cannot be reached here: tests/support/runpod_api.py stands in for it.
"""

import re
import time

import pytest

from builder.deploy import commands
from builder.deploy.api import Timeouts
from builder.presets import PRESETS
from tests.support.hub import Repository, running_hub
from tests.support.model_folders import model_folder
from tests.support.runpod_api import KEY, running_runpod_api

TIMEOUTS = Timeouts((0.01, 0.02), request=20.0, poll=0.01, log_idle=3.0)
CHAT = ("--name", "chat", "--model", "org/model", "--image", "me/worker:1", "--gpu", "ADA_24")


@pytest.fixture(scope="session")
def _model_folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("model"), model__safetensors="weights")


@pytest.fixture(autouse=True)
def hub(_model_folder, monkeypatch):
    """A hub that has small models with the names that the tests deploy."""
    names = ["org/model", "org/other", *(preset.model for preset in PRESETS)]
    with running_hub() as running:
        running.repositories |= {name: Repository(_model_folder) for name in names}
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        yield running


@pytest.fixture
def api():
    """An account without endpoints."""
    with running_runpod_api() as running:
        yield running


@pytest.fixture
def builder(api, capsys):
    """Run a command; return its exit code, what it printed, and its line on stderr."""

    def run(name, *arguments, **environ):
        environ = {"RUNPOD_API_KEY": KEY, "RUNPOD_API_URL": api.url} | environ
        code = getattr(commands, name)(arguments, environ, TIMEOUTS)
        out, err = (text.replace(api.url, "API") for text in capsys.readouterr())
        return code, re.sub(r"(?m)^ +\d+ s ", "N s ", out), err

    return run


def eventually(condition):
    """Wait until a condition holds; return whether it does in time."""
    until = time.monotonic() + 30
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return condition()


def snippet(base, model):
    """Return what `deploy` prints at its end."""
    return f"""
{base}

import os
from openai import OpenAI

client = OpenAI(base_url="{base}", api_key=os.environ["RUNPOD_API_KEY"])
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "What is the capital of France?"}}],
)
print(answer.choices[0].message.content)
"""
