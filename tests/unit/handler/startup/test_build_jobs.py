"""How many compilers run at once."""

import pytest

from handler.startup.build_jobs import build_jobs_environment

GIB = 2**30


def test_a_compiler_has_6_gib_and_the_engine_8():
    assert build_jobs_environment(1, cores=16, memory_bytes=62 * GIB) == {
        "MAX_JOBS": "9",
        "HUMMING_MAX_PARALLEL_BUILD_WORKERS": "9",
        "QUACK_COMPILE_WORKERS": "8",
        "VLLM_TRITON_JIT_WARMUP_NUM_THREADS": "4",
        "TORCHINDUCTOR_COMPILE_THREADS": "16",
    }


def test_ranks_share_the_cores_and_the_memory():
    assert build_jobs_environment(4, cores=16, memory_bytes=62 * GIB) == {
        "MAX_JOBS": "2",
        "HUMMING_MAX_PARALLEL_BUILD_WORKERS": "2",
        "QUACK_COMPILE_WORKERS": "2",
        "VLLM_TRITON_JIT_WARMUP_NUM_THREADS": "2",
        "TORCHINDUCTOR_COMPILE_THREADS": "4",
    }


@pytest.mark.parametrize("ranks", [1, 8])
def test_one_compiler_runs_however_small_the_container_is(ranks):
    assert set(build_jobs_environment(ranks, cores=1, memory_bytes=4 * GIB).values()) == {"1"}


def test_enough_memory_leaves_the_cores_as_the_bound():
    assert build_jobs_environment(1, cores=16, memory_bytes=500 * GIB)["MAX_JOBS"] == "16"
