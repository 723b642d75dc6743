"""Checks before the engine loads weights, for errors that it reports late or only in a traceback.

Only settings that certainly fail are refused. The KV cache is checked for plain decoders, whose
layers all have the same attention; `python -m builder plan` calculates that of every kind of model.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from handler.errors import EngineStartFailed, InvalidSetting
from handler.model.attention import (
    Config,
    attention_heads,
    default_context_tokens,
    heads_split_evenly,
    kv_bytes_per_token,
)
from handler.model.checkpoint import model_config
from handler.model.safetensors import Tensor, tensors_in_folder
from handler.startup.gpus import Gpu

log = logging.getLogger(__name__)

GB = 1e9
LOADER_PACKAGES = {  # LOAD_FORMAT → the package that it needs
    "runai_streamer": "runai-model-streamer",
    "runai_streamer_sharded": "runai-model-streamer",
    "fastsafetensors": "fastsafetensors",
    "instanttensor": "instanttensor",
    "tensorizer": "tensorizer",
}
MIN_LOADED_SHARE = 0.95  # of the weights: an engine may skip draft layers
OTHER_MODALITIES = re.compile(r"visual|vision|audio")  # not loaded to serve text alone
SUGGESTED_GPU_COUNTS = (1, 2, 4, 8, 16)
SUGGESTED_MAX_SHARE = 0.8  # of the memory for weights, where a number of GPUs is suggested
SUGGESTED_RESERVE_BYTES = 2 << 30  # for activations and graphs, where a context is suggested
ROUND_TOKENS = 256
MIN_OWN_CONTEXT_TOKENS = 2048  # a model's own context is not shortened to less


@dataclass(frozen=True)
class MemoryDemand:
    """The memory that the engine needs, from its parsed flags.

    Attributes:
        model_name: for errors.
        folder: of the checkpoint.
        gpus: number of GPUs that share one copy of the weights.
        tensor_parallel_size: number of GPUs that share the heads of a layer.
        kv_cache_parts: pipeline stages times context-parallel ranks, which also divide the KV
            cache.
        memory_fraction: of each GPU's memory, for the engine.
        memory_setting: the variable that sets it, empty where none does.
        context_tokens: of the longest request, if the engine requires room for it in the KV cache;
            0 for the model's own context, None if it requires no room.
        kv_element_bytes: size of one element of the KV cache.
    """

    model_name: str
    folder: Path
    gpus: int
    tensor_parallel_size: int
    kv_cache_parts: int
    memory_fraction: float
    memory_setting: str
    context_tokens: int | None = None
    kv_element_bytes: int = 2


def enable_lora(args: Any, rank: int) -> None:
    """Override flags, often a form's defaults, with which the LoRA adapters cannot be served.

    Args:
        args: the engine's parsed flags, which are changed.
        rank: the rank that the adapters need, 0 without adapters.
    """
    if not rank:
        return
    if not args.enable_lora:
        log.warning("ENABLE_LORA=false has no effect: there are adapters (LORA_MODULES)")
        args.enable_lora = True
    if args.max_lora_rank is not None and args.max_lora_rank < rank:
        log.warning(
            "MAX_LORA_RANK=%d has no effect: the adapters need %d", args.max_lora_rank, rank
        )
        args.max_lora_rank = rank


def check_load_format(load_format: str) -> None:
    """Raise InvalidSetting if LOAD_FORMAT needs a package that is not installed."""
    package = LOADER_PACKAGES.get(load_format)
    if package is not None and find_spec(package.replace("-", "_")) is None:
        raise InvalidSetting(
            f"LOAD_FORMAT={load_format!r} needs the package {package}, which is not installed "
            "here: add it to the image, or leave LOAD_FORMAT out."
        )


def check_memory(demand: MemoryDemand, gpus: Sequence[Gpu]) -> int | None:
    """Refuse weights, or one request of the longest context, that cannot fit the GPUs.

    Args:
        demand: of the engine.
        gpus: that the engine will see; without one, or if a GPU's memory is unknown, nothing is
            refused but the fraction. The smallest counts.

    Returns:
        The context that will fit, about, if the model's own has no room and no other one is set.

    Raises:
        InvalidSetting: the memory fraction is not between 0 and 1, such as a percentage.
        EngineStartFailed: with the sizes, and what to change.
    """
    if not 0 < demand.memory_fraction <= 1:
        raise InvalidSetting(
            f"{demand.memory_setting}={demand.memory_fraction:g} must be above 0 and at most 1, "
            "such as 0.9."
        )
    known = [(gpu.memory_bytes, gpu.name) for gpu in gpus if gpu.memory_bytes is not None]
    if not known or len(known) < len(gpus):
        return None
    total, gpu_name = min(known)
    weights = _Weights.of(demand, total, gpu_name)
    can_have_more = not any(gpu.is_mig_slice for gpu in gpus)
    _check_weights(weights, can_have_more)
    return _context_that_fits(demand, weights, can_have_more)


@dataclass(frozen=True)
class _Weights:
    """A checkpoint's weights beside what the engine may use of the smallest GPU.

    Attributes:
        config: the model's.
        model_bytes: all weights.
        bytes: on each GPU.
        min_bytes: on each GPU at least.
        allowed_bytes: for the engine on that GPU.
        sizes: all this, for errors.
    """

    config: Config
    model_bytes: int
    bytes: float
    min_bytes: float
    allowed_bytes: float
    sizes: str

    @classmethod
    def of(cls, demand: MemoryDemand, gpu_bytes: int, gpu_name: str) -> "_Weights":
        tensors = tensors_in_folder(demand.folder)
        model_bytes = sum(tensor.loaded_bytes for tensor in tensors)
        each, allowed = model_bytes / demand.gpus, gpu_bytes * demand.memory_fraction
        setting = demand.memory_setting and f" ({demand.memory_setting}={demand.memory_fraction:g})"
        sizes = (
            f"{demand.model_name} has {model_bytes / GB:.1f} GB of weights, {each / GB:.1f} GB per "
            f"GPU; the engine may use {allowed / GB:.1f} of {gpu_bytes / GB:.1f} GB per {gpu_name}"
            f"{setting}"
        )
        config = model_config(demand.folder)
        least = min_weight_bytes(tensors, demand.gpus)
        return cls(config, model_bytes, each, least, allowed, sizes)


def _check_weights(weights: _Weights, can_have_more: bool) -> None:
    if weights.min_bytes <= weights.allowed_bytes:
        return
    missing = weights.bytes - weights.allowed_bytes
    several = ""
    if can_have_more and (count := _sufficient_gpus(weights)):
        several = f"{count} such GPUs (TENSOR_PARALLEL_SIZE={count}), "
    raise EngineStartFailed(
        f"{weights.sizes}: {missing / GB:.1f} GB are missing; use {several}"
        f"{_larger_gpu(can_have_more)}, or a checkpoint with fewer bits (AWQ, FP8).",
        lasting=True,
    )


def _context_that_fits(demand: MemoryDemand, weights: _Weights, can_have_more: bool) -> int | None:
    """Return the context that fits, about, in place of the model's own; None if all have room."""
    config = weights.config
    token_bytes = kv_bytes_per_token(config, demand.kv_element_bytes, demand.tensor_parallel_size)
    tokens = demand.context_tokens or default_context_tokens(config)
    if demand.context_tokens is None or token_bytes is None or tokens is None:
        return None
    cache = tokens * token_bytes / demand.kv_cache_parts
    if weights.min_bytes + cache <= weights.allowed_bytes:
        return None
    free = weights.allowed_bytes - weights.bytes
    room = (free - SUGGESTED_RESERVE_BYTES) * demand.kv_cache_parts
    fitting = int(room / token_bytes) // ROUND_TOKENS * ROUND_TOKENS
    if fitting >= MIN_OWN_CONTEXT_TOKENS and not demand.context_tokens:
        return fitting
    shorter = f"set MAX_MODEL_LEN to at most {fitting}, or " if fitting > 0 else ""
    more = " or more GPUs (TENSOR_PARALLEL_SIZE)" if can_have_more else ""
    raise EngineStartFailed(
        f"{weights.sizes}, and one request of {tokens} tokens needs {cache / GB:.1f} GB of KV "
        f"cache: {(cache - free) / GB:.1f} GB are missing; {shorter}use "
        f"{_larger_gpu(can_have_more)}{more}.",
        lasting=True,
    )


def _larger_gpu(can_have_more: bool) -> str:
    return "a larger GPU" if can_have_more else "a larger MIG slice or a whole GPU"


def min_weight_bytes(tensors: Iterable[Tensor], gpus: int) -> float:
    """Return what the weights take at least on each GPU."""
    required = (each for each in tensors if not OTHER_MODALITIES.search(each.name))
    return MIN_LOADED_SHARE * sum(each.loaded_bytes for each in required) / gpus


def _sufficient_gpus(weights: _Weights) -> int | None:
    """Return the smallest number of GPUs that holds the weights and divides the heads."""
    heads, kv_heads = attention_heads(weights.config)
    for count in SUGGESTED_GPU_COUNTS:
        splits = heads is None or heads_split_evenly(count, heads, kv_heads or heads)
        if splits and weights.model_bytes / count <= SUGGESTED_MAX_SHARE * weights.allowed_bytes:
            return count
    return None
