"""The contract tests of the libraries that the worker patches, in a process of their own.

Those of the engines are run by tests/engine/test_contract.py.
"""

import subprocess
import sys

import pytest

from tests.support.environment import ROOT, clean_environment


@pytest.mark.parametrize("library", ["runpod", "uvicorn", "huggingface_hub"])
def test_the_library_has_the_names_that_the_worker_uses(library):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"tests/contract/test_{library}.py"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
