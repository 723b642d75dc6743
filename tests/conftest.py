"""Signals as a terminal leaves them, for all tests."""

import gc
import json
import signal

import pytest

from tests.support.model_folders import safetensors

# A shell lets what it starts in the background ignore Ctrl-C, nohup lets it ignore SIGHUP, and both
# would be inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
gc.disable()  # until the tests and the engines are imported: a quarter of that time


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture
def model(tmp_path):
    """A folder that looks like a checkpoint to the parser."""

    def make(quantization=None, **config):
        folder = tmp_path / "tiny"
        folder.mkdir(exist_ok=True)
        config |= {"quantization_config": quantization} if quantization else {}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(safetensors(""))
        return folder

    return make
