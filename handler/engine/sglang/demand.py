"""What has to fit a GPU, by SGLang's parsed flags."""

from typing import Any

from handler.engine.preflight import MemoryDemand
from handler.model.resolve import ResolvedModel


def demand(args: Any, model: ResolvedModel) -> MemoryDemand | None:
    """Say what has to fit a GPU; None where that cannot be told from the checkpoint's files.

    A context that is longer than the KV cache is none: SGLang refuses the requests that are.
    """
    is_smaller = args.quantization is not None and model.quantization is None
    if is_smaller or args.cpu_offload_gb or (args.offload_group_size or 0) > 0:
        return None
    return MemoryDemand(
        model_name=model.name,
        folder=model.path,
        gpus=args.tp_size * args.pp_size,
        tensor_parallel_size=args.tp_size,
        kv_cache_parts=args.pp_size,
        memory_fraction=args.mem_fraction_static or 1.0,
        memory_setting="MEM_FRACTION_STATIC" if args.mem_fraction_static else "",
    )
