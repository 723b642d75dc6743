"""SGLang on a CPU: what it cannot run, and the cores that its ranks get."""

import pytest

from handler.engine.sglang.platform import check_quantization, thread_binding
from handler.errors import InvalidSetting


@pytest.mark.parametrize(
    ("ranks", "threads", "binding"),
    [(1, "", "0,1,2"), (1, "1", "2"), (1, "0", "2"), (1, "many", "0,1,2"), (2, "1", "0,1,2|0,1,2")],
    ids=["all", "one", "at least one", "no number", "two ranks"],
)
def test_one_rank_gets_omp_num_threads_and_several_share_all_cores(ranks, threads, binding):
    made = thread_binding(ranks, [0, 1, 2], threads)
    assert made == {"SGLANG_CPU_OMP_THREADS_BIND": binding}


def test_a_quantized_model_is_refused_on_a_cpu():
    check_quantization(None, "org/bf16", is_cpu=True)
    with pytest.raises(InvalidSetting) as raised:
        check_quantization("awq", "org/awq", is_cpu=True)
    assert str(raised.value) == (
        "SGLang cannot run a quantized model on a CPU, and org/awq is quantized as 'awq': "
        "use an unquantized model, or a GPU."
    )


def test_a_quantized_model_may_run_on_a_gpu():
    check_quantization("awq", "org/awq", is_cpu=False)
