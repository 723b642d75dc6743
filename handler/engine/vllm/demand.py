"""What has to fit a GPU, by vLLM's parsed flags."""

import argparse
from pathlib import Path

from handler.engine.parallelism import Parallelism
from handler.engine.preflight import MemoryDemand
from handler.model.checkpoint import has_fp8_cache
from handler.model.resolve import ResolvedModel


def demand(
    args: argparse.Namespace, split: Parallelism, model: ResolvedModel
) -> MemoryDemand | None:
    """Say what has to fit a GPU; None where that cannot be told from the checkpoint's files."""
    is_smaller = args.quantization is not None and model.quantization is None
    if is_smaller or args.cpu_offload_gb or args.offload_group_size:
        return None
    length = args.max_model_len
    has_own_cache = args.kv_cache_memory_bytes is not None
    element_bytes = _kv_element_bytes(str(args.kv_cache_dtype), model.path)
    is_open = has_own_cache or element_bytes is None or (length or 0) < 0
    stages, shares = args.pipeline_parallel_size, args.decode_context_parallel_size
    return MemoryDemand(
        model_name=model.name,
        folder=model.path,
        gpus=split.ranks if args.enable_expert_parallel else split.tensor * stages,
        tensor_parallel_size=split.tensor,
        kv_cache_parts=stages * shares * args.prefill_context_parallel_size,
        memory_fraction=1.0 if has_own_cache else args.gpu_memory_utilization,
        memory_setting="" if has_own_cache else "GPU_MEMORY_UTILIZATION",
        context_tokens=None if is_open else length or 0,
        kv_element_bytes=element_bytes or 0,
    )


def _kv_element_bytes(dtype: str, folder: Path) -> int | None:
    """Return the bytes of a number in the KV cache, None where there are fewer than 8 bits."""
    if dtype == "auto":
        return 1 if has_fp8_cache(folder) else 2
    if dtype.startswith(("fp8", "int8")):
        return 1
    return 2 if dtype in ("bfloat16", "float16", "half") else None
