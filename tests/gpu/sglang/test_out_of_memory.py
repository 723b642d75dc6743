"""A GPU whose memory runs out in SGLang's start: the worker starts once more with less."""

import psutil
import pytest

from simulated_gpu.gpu import GPUS
from tests.gpu.sglang.conftest import ANSWER, PYTHON
from tests.gpu.sglang.test_settings import run
from tests.support.environment import START_SECONDS
from tests.support.expositions import value
from tests.support.http_worker import running_http_worker

SUCCEEDED = "the second start has succeeded: "
# SGLang's share for weights and KV cache is 0.684 of 22.49 GiB; the batch reserves 6 GiB.
TOO_LARGE_WEIGHTS = {"SIMULATED_WEIGHTS_GIB": "15.5"}


@pytest.mark.parametrize(
    ("environ", "lowered"),
    [
        (
            TOO_LARGE_WEIGHTS,
            "set CHUNKED_PREFILL_SIZE=3840 MEM_FRACTION_STATIC=0.701 to start once",
        ),
        ({"SIMULATED_GRAPH_GIB": "7.5"}, "set MEM_FRACTION_STATIC=0.662 to start once"),
    ],
    ids=["KV cache", "graphs"],
)
def test_the_second_start_answers(sglang_environment, environ, lowered):
    done = run("-m", "handler", env=sglang_environment(GPUS["l4"], **environ))
    assert done.returncode == 0, done.stderr
    assert ANSWER in done.stdout
    [line] = [line for line in done.stdout.splitlines() if SUCCEEDED in line]
    assert lowered in line


def test_a_share_that_the_user_has_set_stays(sglang_environment):
    environment = sglang_environment(GPUS["l4"], MEM_FRACTION_STATIC="0.68", **TOO_LARGE_WEIGHTS)
    done = run("-m", "handler", env=environment)
    assert (done.returncode, "second start" in done.stdout) == (4, False)
    assert done.stderr.splitlines()[-1] == (
        "The engine did not start: RuntimeError: Not enough memory. Please try to increase "
        "MEM_FRACTION_STATIC. To start it, raise MEM_FRACTION_STATIC, or use a larger GPU, more "
        "GPUs (TENSOR_PARALLEL_SIZE), or a checkpoint with fewer bits (AWQ, FP8)."
    )


def test_the_metrics_say_what_was_lowered_and_no_process_of_the_first_start_is_left(
    sglang_environment,
):
    environment = sglang_environment(GPUS["l4"], SERVE_MODE="http", **TOO_LARGE_WEIGHTS)
    with running_http_worker(
        [PYTHON, "-m", "handler"], environment, ready_within_seconds=START_SECONDS
    ) as worker:
        exposition = worker.call("GET", "/metrics").text
        family = psutil.Process(worker.process.pid).children(recursive=True)
        names = sorted(process.name() for process in family if "sglang" in process.name())
    assert [name.split("::")[1][:9] for name in names] == ["detokeniz", "scheduler"]
    series = 'llm_worker_lowered_setting{{setting="{}"}}'
    assert value(exposition, series.format("CHUNKED_PREFILL_SIZE")) == 3840
    assert value(exposition, series.format("MEM_FRACTION_STATIC")) == 0.701
    assert value(exposition, 'llm_worker_start_seconds{stage="first start"}') > 0
