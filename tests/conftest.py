"""Signals as a terminal leaves them, for all tests."""

import json
import signal

import pytest

# Imported here until all tests that need an engine are in tests/engine.
from tests.engine.conftest import client, endpoint, paris  # noqa: F401

# A shell lets what it starts in the background ignore Ctrl-C, and that would be inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


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
