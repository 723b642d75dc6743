"""The kernels that vLLM chooses on each kind of GPU, by the layers of the model that it builds."""

import json
import subprocess

import pytest

from simulated_gpu.gpu import GPUS
from tests.gpu.conftest import PYTHON
from tests.support.checkpoints import LLAMA
from tests.support.environment import MODELS, NAME, ROOT, START_SECONDS

# The layers of Llama 3 8B. A group of the demo model has 32 weights, usual are 128.
SIZES = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 1} | {
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
GROUPS_OF_4_BITS = {"bits": 4, "group_size": 128}
FP8_DYNAMIC = json.loads((MODELS / f"{NAME}-fp8/config.json").read_text())["quantization_config"]
QUANTIZATIONS = {
    "bf16": None,
    "awq": GROUPS_OF_4_BITS | {"quant_method": "awq", "zero_point": True, "version": "gemm"},
    "gptq": GROUPS_OF_4_BITS | {"quant_method": "gptq", "desc_act": False, "sym": True},
    "fp8": FP8_DYNAMIC | {"ignore": ["lm_head"]},
    "fp8 blocks": {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
}
CHOSEN = {  # GPU: attention; linear layers in the order of QUANTIZATIONS
    "a100": (
        "FlashAttentionBackend",
        "UnquantizedLinearMethod",
        "MarlinLinearKernel",
        "MarlinLinearKernel",
        "HummingFP8ScaledMMLinearKernel",
        "MarlinFP8ScaledMMLinearKernel",
    ),
    "l4": (
        "FlashAttentionBackend",
        "UnquantizedLinearMethod",
        "MarlinLinearKernel",
        "MarlinLinearKernel",
        "CutlassFP8ScaledMMLinearKernel",
        "MarlinFP8ScaledMMLinearKernel",
    ),
    "h100": (
        "FlashAttentionBackend",
        "UnquantizedLinearMethod",
        "MacheteLinearKernel",
        "MacheteLinearKernel",
        "CutlassFP8ScaledMMLinearKernel",
        "FlashInferFp8DeepGEMMDynamicBlockScaledKernel",
    ),
    "b200": (
        "FlashInferBackend",
        "UnquantizedLinearMethod",
        "MarlinLinearKernel",
        "MarlinLinearKernel",
        "CutlassFP8ScaledMMLinearKernel",
        "DeepGemmFp8BlockScaledMMKernel",
    ),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The folders of the quantizations, each with a config.json alone."""
    made = []
    for name, quantization in QUANTIZATIONS.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        quantized = {"quantization_config": quantization} if quantization else {}
        (folder / "config.json").write_text(json.dumps(LLAMA | SIZES | quantized))
        made.append(str(folder))
    return made


def chosen_kernels(environment, folders):
    done = subprocess.run(
        [PYTHON, "-m", "tests.gpu.chosen_kernels", *folders],
        env=environment | {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]).values())


@pytest.mark.parametrize("gpu", CHOSEN)
def test_the_kernels_of_each_kind_of_gpu(gpu_environment, checkpoints, gpu):
    attention, *linear = CHOSEN[gpu]
    environment = gpu_environment(GPUS[gpu], executor=False)
    assert chosen_kernels(environment, checkpoints) == [
        {"linear": [kernel], "attention": [attention]} for kernel in linear
    ]


SAMPLER, FP8_GEMM = "sampling", "fp8_blockscale_gemm_90"
ALL_REDUCE = ("trtllm_comm", "trtllm_mnnvl_comm")


@pytest.mark.parametrize(
    ("gpu", "count", "quantization", "names"),
    [
        pytest.param("a100", 2, "fp8 blocks", [SAMPLER], id="sm_80, several"),
        pytest.param("l4", 1, "fp8 blocks", [SAMPLER], id="sm_89"),
        pytest.param("h100", 1, "bf16", [SAMPLER], id="sm_90"),
        pytest.param(
            "h100", 2, "fp8 blocks", [FP8_GEMM, SAMPLER, *ALL_REDUCE], id="sm_90, several"
        ),
    ],
)
def test_the_build_compiles_the_modules_of_flashinfer(
    gpu_environment, checkpoints, tmp_path, gpu, count, quantization, names
):
    """Those that vLLM loads on that GPU."""
    folder = checkpoints[list(QUANTIZATIONS).index(quantization)]
    environment = gpu_environment(GPUS[gpu], count, executor=False)
    done = subprocess.run(
        [PYTHON, "-m", "tests.gpu.flashinfer_modules", folder, str(count)],
        env=environment
        | {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
        | {"FLASHINFER_WORKSPACE_BASE": str(tmp_path)}
        | {"FLASHINFER_CUDA_ARCH_LIST": GPUS[gpu].capability},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [names, names]
