"""The start of vLLM's CUDA build, up to the first answer."""

import subprocess

from simulated_gpu.gpu import GPUS
from tests.gpu.conftest import ANSWER, PYTHON
from tests.support.environment import ROOT, START_SECONDS


def run(environment):
    """Run a worker that answers test_input.json."""
    return subprocess.run(
        [PYTHON, "-m", "handler"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )


def test_it_answers_test_input_json(gpu_environment):
    done = run(gpu_environment(GPUS["l4"]))
    assert done.returncode == 0, done.stderr
    assert ANSWER in done.stdout
