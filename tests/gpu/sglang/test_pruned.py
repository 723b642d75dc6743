"""What the image leaves out of SGLang's CUDA build: it exists, and a start without it answers."""

import re

import pytest

from tests.gpu.sglang.conftest import ANSWER
from tests.support.pruned_environment import (
    ENVIRONMENTS,
    assert_same_when_loaded,
    patterns,
    pruned_environment,
    run_once,
    site_packages,
)

TILELANG = re.compile(r"^\s*(import|from) tilelang\b", re.MULTILINE)


@pytest.mark.parametrize("pattern", patterns("sglang"))
def test_the_pattern_matches_a_file(pattern):
    assert any(site_packages(ENVIRONMENTS["sglang"]).glob(pattern))


@pytest.fixture(scope="module")
def environment():
    with pruned_environment("sglang") as environment:
        yield environment


def test_a_start_without_it_answers(environment, sglang_environment):
    done = run_once(environment, sglang_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert ANSWER in done.stdout


def test_what_is_loaded_of_a_stripped_library_is_the_same(environment):
    assert_same_when_loaded(environment, "sglang")


def test_the_attention_with_kernels_in_tilelang():
    """docs/image.md names the models: they need an image with everything in it."""
    sglang = site_packages(ENVIRONMENTS["sglang"]) / "sglang"
    users = {
        path.parent.name
        for folder in ("srt", "kernels")
        for path in (sglang / folder).rglob("*.py")
        if TILELANG.search(path.read_text())
    }
    # `quantization` has a kernel for AMD's GPUs.
    assert users == {"dsa", "dsv4", "minicpm", "qsa", "quantization"}
