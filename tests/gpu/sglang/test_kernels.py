"""FlashInfer's modules that SGLang loads on each kind of GPU are those that the build compiles."""

import json
import subprocess

import pytest

from simulated_gpu.gpu import GPUS, SimulatedGpu
from tests.gpu.sglang.conftest import PYTHON
from tests.support.environment import ROOT, START_SECONDS
from tests.support.header_checkpoints import header_checkpoint

RTX_PRO_6000 = SimulatedGpu("NVIDIA RTX PRO 6000 Blackwell Server Edition", "12.0", 97887)
ATTENTION = (
    "dtype_q_{dtype}_dtype_kv_{dtype}_dtype_o_{dtype}_dtype_idx_i32_head_dim_qk_{head_dim}"
    "_head_dim_vo_{head_dim}_posenc_0_use_swa_False_use_logits_cap_False"
)
DECODE = f"batch_decode_with_kv_cache_{ATTENTION}"
PREFILL = f"batch_prefill_with_kv_cache_{ATTENTION}_f16qk_False_kv_stride_equal"
DEMO = {"dtype": "f16", "head_dim": 64}
LLAMA = {"dtype": "bf16", "head_dim": 128}
WITH_FLASHINFER = [DECODE.format(**DEMO), PREFILL.format(**DEMO), "cascade", "sampling"]


def modules(environment):
    """Return the names of the modules that SGLang loads, and of those that the build compiles."""
    done = subprocess.run(
        [PYTHON, "-m", "tests.gpu.sglang.flashinfer_modules"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("gpu", "names"),
    [
        pytest.param(GPUS["a100"], WITH_FLASHINFER, id="sm_80"),
        pytest.param(GPUS["l4"], WITH_FLASHINFER, id="sm_89"),
        pytest.param(GPUS["h100"], ["sampling"], id="sm_90"),
        pytest.param(RTX_PRO_6000, WITH_FLASHINFER, id="sm_120"),
    ],
)
def test_the_build_compiles_what_sglang_loads(sglang_environment, tmp_path, gpu, names):
    environment = sglang_environment(gpu, FLASHINFER_WORKSPACE_BASE=str(tmp_path))
    assert modules(environment) == [names, names]


def test_many_query_heads_for_each_kv_head_are_decoded_with_the_module_of_prefill(
    sglang_environment, tmp_path
):
    fields = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
    model = header_checkpoint(tmp_path, 1 << 20, num_hidden_layers=1, **fields)
    environment = sglang_environment(
        GPUS["l4"], MODEL_NAME=str(model), FLASHINFER_WORKSPACE_BASE=str(tmp_path)
    )
    loaded = [PREFILL.format(**LLAMA), "cascade", "sampling"]
    assert modules(environment) == [loaded, loaded]
