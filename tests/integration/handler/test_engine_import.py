"""The engine's import beside the hub: the order of the start, and a start that ends within it.

The worker's process and the hub's client are real, see `tests.support.import_steps`.
"""

import contextlib
import signal
import subprocess
import sys

import pytest

from tests.support.environment import ROOT, START_SECONDS, clean_environment
from tests.support.hub import Fault, Repository, running_hub
from tests.support.model_folders import model_folder


@pytest.fixture
def start(tmp_path):
    """Start a worker of a model on a hub; yield it, the hub, and the file of its output."""
    # The hub's client does not ask for a file whose content it has: each is another one.
    tokenizer = '{"version": "1.0"}'
    folder = model_folder(tmp_path / "m", model__safetensors="w", tokenizer__json=tokenizer)

    @contextlib.contextmanager
    def start(model, *faults, **variables):
        output = tmp_path / "output"
        with running_hub(public=Repository(folder)) as hub, output.open("w") as file:
            hub.faults += faults
            environment = clean_environment(
                HF_ENDPOINT=hub.url,
                HF_HUB_DISABLE_XET="1",
                HF_HUB_CACHE=str(tmp_path / "hub"),
                CACHE_ROOT=str(tmp_path / "cache"),
                **{"MODEL_NAME": model, **variables},
            )
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.support.import_steps"],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=file,
            )
            try:
                yield worker, output
            finally:
                worker.kill()
                worker.wait()

    return start


def wait_for_fault(fault, worker, output):
    while not fault.began.wait(0.1):
        assert worker.poll() is None, output.read_text()


def steps(output):
    """Return the steps of the start."""
    lines = output.read_text().splitlines()
    return [line.removeprefix("step: ") for line in lines if line.startswith("step: ")]


def last_line(output):
    return output.read_text().splitlines()[-1]


def test_the_import_begins_with_the_download_and_ends_before_the_flags_are_checked(start):
    with start("org/public") as (worker, output):
        worker.wait(START_SECONDS)
    assert steps(output)[:7] == [
        "hub",
        "import",
        "download",
        "adapter",
        "imported",
        "flags",
        "start",
    ]


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({"MODEL_NAME": "org/missing"}, 1),
        ({"TOKENIZER_NAME": "org/missing"}, 2),
        ({"SPECULATIVE_METHOD": "draft_model", "SPECULATIVE_MODEL": "org/missing"}, 2),
        ({"LORA_MODULES": "sql=org/missing"}, 2),
    ],
    ids=["model", "tokenizer", "draft", "adapter"],
)
def test_a_wrong_name_is_told_before_anything_is_imported_or_downloaded(start, variables, asked):
    with start("org/public", **variables) as (worker, output):
        assert worker.wait(START_SECONDS) == 3
    assert steps(output) == ["hub"] * asked
    assert last_line(output) == (
        "org/missing: no such repository on the hub, or it is private and HF_TOKEN gives no access."
    )


def test_a_model_that_is_local_is_found_before_the_import_begins(start, tmp_path):
    """It takes no time, and the engine then reads at its import that there is no hub."""
    with start(str(tmp_path / "m")) as (worker, output):
        worker.wait(START_SECONDS)
    assert steps(output) == ["adapter", "import", "imported", "flags", "start"]


def test_a_model_that_fails_during_the_import_ends_the_worker_with_its_line(start):
    """The import does not end, and nothing of it follows the line."""
    refused = Fault("model.safetensors", times=99, status=403)
    with start("org/public", refused) as (worker, output):
        assert worker.wait(START_SECONDS) == 3
    assert steps(output) == ["hub", "import", "download"]
    assert last_line(output).startswith("org/public: the hub answered 403: ")
    assert "Traceback" not in output.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_download_and_import_ends_the_worker_at_once(start, number):
    """Neither the import nor the hub's silence is waited for."""
    silence = Fault("config.json", after_bytes=1, pause_seconds=START_SECONDS)
    with start("org/public", silence) as (worker, output):
        wait_for_fault(silence, worker, output)
        worker.send_signal(number)
        assert worker.wait(START_SECONDS) == 128 + number
    assert steps(output) == ["hub", "import", "download"]
    assert "Traceback" not in output.read_text()
