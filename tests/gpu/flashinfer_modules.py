"""Print the names of FlashInfer's modules that vLLM's CUDA build loads for a checkpoint, as JSON.

With them come the names of those that the image's build compiles for it.

    python -m tests.gpu.flashinfer_modules FOLDER GPUS     beside simulated GPUs, in .venv-cuda

vLLM chooses the classes and settings, and its sampler is called with tensors on the CPU. For the
other classes FlashInfer is asked for the modules that they ask for.
"""

import json
import sys

import torch
from flashinfer import sampling
from flashinfer.comm import trtllm_ar, trtllm_mnnvl_ar
from flashinfer.gemm import gemm_base
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.sample.ops.topk_topp_sampler import flashinfer_sample

from tests.gpu.chosen_kernels import chosen
from tests.support.flashinfer_modules import capture_modules, compiled_modules

FP8_BLOCKS = "FlashInferFp8DeepGEMMDynamicBlockScaledKernel"
SIZE = 128


def load_modules(folder: str, gpus: int) -> None:
    """Let FlashInfer load what vLLM uses of it for a checkpoint."""
    flashinfer_sample(torch.zeros(1, SIZE), torch.tensor([4]), torch.tensor([0.9]))
    if FP8_BLOCKS in chosen(folder)["linear"]:
        gemm_base.get_fp8_blockscale_gemm_runner_sm90()
    arguments = EngineArgs(model=folder, max_model_len=2048, tensor_parallel_size=gpus)
    passes = arguments.create_engine_config().compilation_config.pass_config
    if passes.fuse_allreduce_rms:
        trtllm_mnnvl_ar.get_trtllm_mnnvl_comm_module()
        trtllm_ar.get_trtllm_comm_module()


if __name__ == "__main__":
    torch.set_default_dtype(torch.bfloat16)
    names = capture_modules()
    sampling.get_seed_and_offset = lambda *_: (0, 0)  # of the GPU's generator
    folder, gpus = sys.argv[1], int(sys.argv[2])
    load_modules(folder, gpus)
    print(json.dumps([sorted(set(names)), compiled_modules("vllm", folder, gpus)]))
