"""Prints the classes that vLLM chooses for checkpoints on the GPU it sees, as JSON.

    python -m tests.gpu.chosen_kernels FOLDER…      in vLLM's CUDA environment

The model is built as in a start, on torch's device `meta`: with its layers, without weights.
"""

import json
import sys
import tempfile

import torch
from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.model_loader.utils import initialize_model


def chosen(folder: str) -> dict[str, list[str]]:
    """Return the names of the classes of a model's linear layers and attention."""
    config = EngineArgs(model=folder, max_model_len=2048).create_engine_config()
    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            store = f"file://{tempfile.mkdtemp()}/store"
            init_distributed_environment(1, 0, store, 0, backend="gloo")
            initialize_model_parallel(1, 1)
        with torch.device("meta"):
            model = initialize_model(vllm_config=config)
    linear = {kernel_of(layer) for layer in model.modules() if isinstance(layer, LinearBase)}
    attention = {
        layer.attn_backend.__name__ for layer in model.modules() if isinstance(layer, Attention)
    }
    return {"linear": sorted(linear), "attention": sorted(attention)}


def kernel_of(layer: LinearBase) -> str:
    """Return the class that multiplies: a method's kernel, or the method itself."""
    scheme = getattr(layer, "scheme", None)
    for holder in (scheme, layer.quant_method):
        for name in ("kernel", "fp8_linear", "linear_kernel"):
            if (kernel := getattr(holder, name, None)) is not None:
                return type(kernel).__name__
    return type(scheme or layer.quant_method).__name__


if __name__ == "__main__":
    torch.set_default_dtype(torch.bfloat16)
    print(json.dumps({folder: chosen(folder) for folder in sys.argv[1:]}))
