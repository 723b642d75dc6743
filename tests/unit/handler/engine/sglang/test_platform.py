"""The cores that SGLang's ranks get on a CPU."""

import pytest

from handler.engine.sglang.platform import thread_binding


@pytest.mark.parametrize(
    ("ranks", "threads", "binding"),
    [(1, "", "0,1,2"), (1, "1", "2"), (1, "0", "2"), (1, "many", "0,1,2"), (2, "1", "0,1,2|0,1,2")],
    ids=["all", "one", "at least one", "no number", "two ranks"],
)
def test_one_rank_gets_omp_num_threads_and_several_share_all_cores(ranks, threads, binding):
    made = thread_binding(ranks, [0, 1, 2], threads)
    assert made == {"SGLANG_CPU_OMP_THREADS_BIND": binding}
