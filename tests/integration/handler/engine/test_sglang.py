"""The tests that import SGLang, in its Python environment."""

import subprocess

from tests.support.environment import PYTHON, ROOT, clean_environment

FOLDER = "tests/integration/handler/engine/sglang"


def test_streams_of_sglang_are_its_plain_answers():
    done = subprocess.run(
        [PYTHON["sglang"], "-m", "pytest", "-q", FOLDER],
        cwd=ROOT,
        env=clean_environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
