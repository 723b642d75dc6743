"""FlashInfer's modules that an engine uses with its default settings, as a table.

Which of them a model needs, and how they are described to FlashInfer, depends on its config.json.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from builder.errors import InvalidArgument
from builder.plan.kv_cache import HEADS, key_head_dim, kv_head_count, uses_mla
from builder.plan.layers import int_field, text_config_with_defaults

HOPPER = ("9.0",)
WITH_FUSED_ALL_REDUCE = ("9.0", "10.0", "10.3")
WITHOUT_OWN_ATTENTION = ("8.0", "8.6", "8.7", "8.9", "12.0", "12.1")
"""GPUs on which SGLang's default attention is FlashInfer's."""
TENSOR_CORE_GROUP = 4  # query heads per KV head with which SGLang decodes on tensor cores
FP8_BLOCK = [128, 128]
Arguments = tuple[Any, ...]
Specification = Callable[[], Any]
"""A function that describes a module to FlashInfer, with its arguments."""


@dataclass(frozen=True)
class Model:
    """What determines a model's kernels.

    Attributes:
        head_dim: of its attention; 0 with MLA, or where it has no attention.
        heads_per_kv_head: query heads that share a key and a value.
        dtype: the name in torch of the type that the engine calculates in.
        has_fp8_blocks: whether its weights are FP8 with a scale for each block of 128 x 128.
    """

    head_dim: int
    heads_per_kv_head: int
    dtype: str
    has_fp8_blocks: bool


@dataclass(frozen=True)
class Module:
    """A module of FlashInfer that an engine uses with its default settings.

    Attributes:
        function: that describes it, as `module:name`.
        engine: the one that uses it, None for both.
        capabilities: of the GPUs on which it does, None for all.
        arguments: of the function for a model, None where the model does not use the module.
            Without this attribute the module is the same for all models.
        for_several_gpus: whether only a model on several GPUs uses it.
    """

    function: str
    engine: str | None = None
    capabilities: Sequence[str] | None = None
    arguments: Callable[[Model], Arguments | None] | None = None
    for_several_gpus: bool = False


def prefill_attention(model: Model) -> Arguments | None:
    use_16_bit_sums = False
    attention = _attention(model)
    return ("fa2", *attention, use_16_bit_sums) if attention else None


def decode_attention(model: Model) -> Arguments | None:
    """Return the arguments for decode; on tensor cores the module of prefill serves for it."""
    return _attention(model) if model.heads_per_kv_head < TENSOR_CORE_GROUP else None


def fp8_blocks(model: Model) -> Arguments | None:
    return () if model.has_fp8_blocks else None


def _attention(model: Model) -> Arguments | None:
    if not model.head_dim:
        return None
    torch = import_module("torch")
    dtype, no_position_encoding = getattr(torch, model.dtype), 0
    use_window = use_soft_cap = False
    head_dims = (model.head_dim, model.head_dim)
    types = (dtype, dtype, dtype, torch.int32)
    return (*types, *head_dims, no_position_encoding, use_window, use_soft_cap)


MODULES = (
    Module("flashinfer.jit.sampling:gen_sampling_module"),
    # Joins the attention to a cached prefix and the attention to the rest of the prompt.
    Module("flashinfer.jit.cascade:gen_cascade_module", "sglang", WITHOUT_OWN_ATTENTION),
    Module(
        "flashinfer.jit.attention.modules:_gen_batch_prefill_primary_module",
        "sglang",
        WITHOUT_OWN_ATTENTION,
        prefill_attention,
    ),
    Module(
        "flashinfer.jit.attention.modules:gen_batch_decode_module",
        "sglang",
        WITHOUT_OWN_ATTENTION,
        decode_attention,
    ),
    # Linear layers, for fewer than 32 tokens.
    Module("flashinfer.jit.gemm:gen_fp8_blockscale_gemm_sm90_module", "vllm", HOPPER, fp8_blocks),
    # All-reduce with RMS norm; the second where the GPUs have no NVSwitch.
    Module(
        "flashinfer.jit.comm:gen_trtllm_mnnvl_comm_module",
        "vllm",
        WITH_FUSED_ALL_REDUCE,
        for_several_gpus=True,
    ),
    Module(
        "flashinfer.jit.comm:gen_trtllm_comm_module",
        "vllm",
        WITH_FUSED_ALL_REDUCE,
        for_several_gpus=True,
    ),
)


def specifications(
    architectures: Sequence[str], engine: str, model: Model | None = None, gpus: int = 1
) -> dict[tuple[str, ...], list[Specification]]:
    """Return what describes an engine's modules, by the architectures to compile them for."""
    by_targets: dict[tuple[str, ...], list[Specification]] = {}
    for module in MODULES:
        capabilities = module.capabilities
        targets = tuple(
            name
            for name in architectures
            if capabilities is None or name.rstrip("af") in capabilities
        )
        arguments = _arguments(module, model)
        is_used = module.engine in (None, engine) and (gpus > 1 or not module.for_several_gpus)
        if targets and is_used and arguments is not None:
            name, _, function = module.function.partition(":")
            describe = partial(getattr(import_module(name), function), *arguments)
            by_targets.setdefault(targets, []).append(describe)
    return by_targets


def _arguments(module: Module, model: Model | None) -> Arguments | None:
    if module.arguments is None:
        return ()
    return module.arguments(model) if model else None


def read_model(path: Path) -> Model:
    """Read what determines a model's kernels from its config.json.

    Raises:
        InvalidArgument: it cannot be read, or is not a JSON object.
    """
    try:
        config = json.loads(path.read_text())
        text = text_config_with_defaults(config)
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidArgument(f"{path} is not a model's config.json: {error}.") from error
    heads = int_field(text, *HEADS, default=0)
    has_heads = heads > 0 and not uses_mla(text)
    return Model(
        head_dim=key_head_dim(text, heads) if has_heads else 0,
        heads_per_kv_head=heads // kv_head_count(text, heads) if has_heads else 1,
        dtype=_dtype(text) or _dtype(config) or _default_dtype(text),
        has_fp8_blocks=_has_fp8_blocks(config.get("quantization_config") or {}),
    )


def _dtype(config: Mapping[str, Any]) -> str | None:
    name = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    return name if name in ("bfloat16", "float16") else None


def _default_dtype(config: Mapping[str, Any]) -> str:
    """Return the type in which engines calculate with weights of 32 bits."""
    return "bfloat16" if str(config.get("model_type")).startswith("gemma") else "float16"


def _has_fp8_blocks(quantization: Mapping[str, Any]) -> bool:
    is_fp8 = quantization.get("quant_method") == "fp8"
    return is_fp8 and quantization.get("weight_block_size") == FP8_BLOCK
