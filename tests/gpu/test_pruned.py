"""What the image leaves out of vLLM's CUDA build: it exists, and a start without it answers."""

import re

import pytest

from tests.gpu.conftest import ANSWER
from tests.support.pruned_environment import (
    ENVIRONMENTS,
    assert_same_when_loaded,
    patterns,
    pruned_environment,
    run_once,
    site_packages,
)

TILELANG = re.compile("tilelang")


@pytest.mark.parametrize("pattern", patterns("vllm"))
def test_the_pattern_matches_a_file(pattern):
    assert any(site_packages(ENVIRONMENTS["vllm"]).glob(pattern))


@pytest.fixture(scope="module")
def environment():
    with pruned_environment("vllm") as environment:
        yield environment


def test_a_start_without_it_answers(environment, gpu_environment):
    done = run_once(environment, gpu_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert ANSWER in done.stdout


def test_what_is_loaded_of_a_stripped_library_is_the_same(environment):
    assert_same_when_loaded(environment, "vllm")


def test_the_models_with_kernels_in_tilelang():
    """docs/image.md names them: they need an image with everything in it."""
    models = site_packages(ENVIRONMENTS["vllm"]) / "vllm/models"
    users = {
        path.relative_to(models).parts[0]
        for path in models.rglob("*.py")
        if TILELANG.search(path.read_text())
    }
    assert users == {"deepseek_v4", "deepseek_v41", "glm5next"}
