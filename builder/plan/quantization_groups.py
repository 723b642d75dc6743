"""Whether tensor parallelism can split quantized weights: those that share a scale stay together.

A layer has one scale per group of its inputs, or per block of inputs and outputs. Follows vLLM's
checks: `verify_group_size_divides_partition` (`vllm/distributed/utils.py`),
`validate_fp8_block_shape` (`quantization/utils/fp8_utils.py`), `refine_fp8_moe_block_shape`
(`fused_moe/oracle/fp8.py`) and `MoeWNA16Method` (`quantization/moe_wna16.py`).
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from builder.plan.architecture import Architecture
from builder.plan.layers import int_field
from handler.model.attention import Config, text_config

MIN_REFINED_SIZE = 32  # of the pieces into which vLLM refines groups and blocks
# Lists of unquantized layers hold names of modules, of their parents, or regular expressions, where
# a dot may be escaped: `\W{1,2}`.
DENSE_MLP = re.compile(
    r"\blayers\W{1,2}0(\W*|\W{1,2}mlp\W*|\W{1,2}mlp\W{1,2}(gate|up|gate_up|down)_proj)$"
)
SHARED_EXPERTS = re.compile(r"shared_experts?(?!_gate)")
UNQUANTIZED_LISTS = ("modules_to_not_convert", "ignored_layers", "ignore")


@dataclass(frozen=True)
class QuantizationGroups:
    """How quantized weights share scales.

    Attributes:
        inputs: of a layer that share a scale.
        outputs: that share it; 1 where there are groups and no blocks.
        can_refine: whether vLLM refines the groups of experts and keys in this format.
        skips_dense, skips_shared: whether a mixture's dense layers, or its shared experts, are not
            quantized.
    """

    inputs: int
    outputs: int = 1
    can_refine: bool = False
    skips_dense: bool = False
    skips_shared: bool = False


def parse_quantization_groups(config: Config) -> QuantizationGroups | None:
    """Parse a quantized model's config.json, None if a scale covers a whole row or layer."""
    quantization = (
        config.get("quantization_config")
        or text_config(config).get("quantization_config")
        or config.get("compression_config")
    )
    if not isinstance(quantization, dict):
        return None
    largest = max(_groups(quantization), key=lambda groups: groups.inputs, default=None)
    if largest is None:
        return None
    lists = (quantization.get(key) for key in UNQUANTIZED_LISTS)
    names = [str(name) for names in lists if isinstance(names, list) for name in names]
    return replace(
        largest,
        skips_dense=any(DENSE_MLP.search(name) for name in names),
        skips_shared=any(SHARED_EXPERTS.search(name) for name in names),
    )


def split_error(
    groups: QuantizationGroups | None, model: Architecture, *, gpus: int, has_fp8: bool
) -> str | None:
    """Return which quantized layer cannot be split over the GPUs, None if all can.

    vLLM's kernel for refined blocks needs GPUs that calculate in FP8.
    """
    if groups is None or gpus == 1:
        return None
    name = "groups" if groups.outputs == 1 else "blocks"
    for width in _quantized_widths(groups, model):
        if width % (gpus * groups.inputs):
            return f"{name} of {groups.inputs} do not divide {width} / {gpus}"
    keys = max(1, model.kv_heads // gpus) * model.key_head_dim
    if keys % groups.outputs and not groups.can_refine:
        return f"blocks of {groups.outputs} do not divide the {keys} keys of each GPU"
    expert = model.expert_width
    if expert % (gpus * groups.inputs) == 0:
        return None
    refined = math.gcd(groups.inputs, expert // gpus, model.hidden_size)
    can_refine = groups.can_refine and expert % gpus == 0 and refined >= MIN_REFINED_SIZE
    if can_refine and (groups.outputs == 1 or has_fp8):
        return None
    no_fp8 = "no FP8, and " if can_refine else ""
    return f"{no_fp8}{name} of {groups.inputs} do not divide the experts' {expert} / {gpus}"


def _quantized_widths(groups: QuantizationGroups, model: Architecture) -> Iterator[int]:
    """Yield the widths that have to be divisible, apart from the routed experts'."""
    yield model.attention_width
    if not (model.experts > 1 and groups.skips_dense):
        yield model.dense_width
    if not groups.skips_shared:
        yield model.shared_expert_width


def _groups(quantization: Config) -> Iterator[QuantizationGroups]:
    method = str(quantization.get("quant_method")).lower()
    if method == "fp8":
        yield from _blocks(quantization.get("weight_block_size"), can_refine=True)
    size = int_field(quantization, "group_size", "q_group_size", default=0)
    if method in ("awq", "gptq") and size > 0:
        yield QuantizationGroups(size, can_refine=True)
    schemes = quantization.get("config_groups")  # compressed-tensors
    for scheme in schemes.values() if isinstance(schemes, dict) else ():
        weights = scheme.get("weights") if isinstance(scheme, dict) else None
        if not isinstance(weights, dict):
            continue
        if weights.get("strategy") == "block":
            yield from _blocks(weights.get("block_structure"), can_refine=False)
        size = int_field(weights, "group_size", default=0)
        if weights.get("strategy") == "group" and size > 0:
            yield QuantizationGroups(size)


def _blocks(shape: Any, can_refine: bool) -> Iterator[QuantizationGroups]:
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) for n in shape):
        outputs, inputs = shape
        if outputs > 0 and inputs > 0:
            yield QuantizationGroups(inputs, outputs, can_refine)
