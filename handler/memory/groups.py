"""Whether quantized weights can be split over GPUs: those that share a scale stay together.

A layer has a scale for each group of its inputs, or for each block of inputs and outputs. Written
against vLLM's own checks: `verify_group_size_divides_partition` (`vllm/distributed/utils.py`),
`validate_fp8_block_shape` (`quantization/utils/fp8_utils.py`), `refine_fp8_moe_block_shape`
(`fused_moe/oracle/fp8.py`) and `MoeWNA16Method` (`quantization/moe_wna16.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.memory.architecture import Architecture
from handler.memory.layers import number, text_config

SMALLEST = 32  # of the pieces into which vLLM cuts groups and blocks of experts
CUT_BY_ENGINES = ("awq", "gptq")  # formats whose groups within experts are cut where need be


@dataclass(frozen=True)
class Groups:
    """How weights share scales.

    Attributes:
        inputs: of a layer that share one.
        outputs: that share one; 1 where there are groups and no blocks.
        cuts_experts: whether an engine cuts those of experts where need be.
    """

    inputs: int
    outputs: int = 1
    cuts_experts: bool = False


def groups(config: Mapping[str, Any]) -> Groups | None:
    """Read a quantized model's configuration, None where each scale is of a whole row or layer."""
    text = text_config(config)
    found = config.get("quantization_config") or text.get("quantization_config")
    found = found or config.get("compression_config")
    if not isinstance(found, dict):
        return None
    method = str(found.get("quant_method")).lower()
    block = found.get("weight_block_size")
    if method == "fp8" and block:
        return _block(block)
    size = number(found, "group_size", "q_group_size", default=0)
    if method in CUT_BY_ENGINES and size > 0:
        return Groups(size, cuts_experts=True)
    schemes = found.get("config_groups")
    weights = [
        each["weights"]
        for each in (schemes.values() if isinstance(schemes, dict) else ())
        if isinstance(each, dict) and isinstance(each.get("weights"), dict)
    ]
    every = [_of_scheme(each) for each in weights]
    return max((each for each in every if each), key=lambda each: each.inputs, default=None)


def obstacle(shared: Groups | None, model: Architecture, gpus: int, has_fp8: bool) -> str | None:
    """Say which layer cannot be split over some GPUs, None if all can.

    Args:
        shared: how weights share scales.
        model: whose they are.
        gpus: how many.
        has_fp8: whether they calculate in FP8: vLLM's kernel that takes smaller blocks needs that.
    """
    if shared is None or gpus == 1:
        return None
    what = "groups" if shared.outputs == 1 else "blocks"
    for width in model.dense_widths:
        if width % (gpus * shared.inputs):
            return f"{what} of {shared.inputs} do not divide {width} / {gpus}"
    keys = max(1, model.kv_heads // gpus) * model.key_width
    if keys % shared.outputs:
        return f"blocks of {shared.outputs} do not divide the {keys} keys of each GPU"
    expert = model.expert_width
    if expert % (gpus * shared.inputs) == 0:
        return None
    is_cut = (
        expert % gpus == 0 and math.gcd(shared.inputs, expert // gpus, model.hidden) >= SMALLEST
    )
    if is_cut and (shared.cuts_experts or (shared.outputs > 1 and has_fp8)):
        return None
    why = "no FP8, and " if is_cut and shared.outputs > 1 else ""
    return f"{why}{what} of {shared.inputs} do not divide the experts' {expert} / {gpus}"


def _block(sides: Any) -> Groups | None:
    if isinstance(sides, list) and len(sides) == 2 and all(isinstance(n, int) for n in sides):
        return Groups(sides[1], sides[0])
    return None


def _of_scheme(weights: Mapping[str, Any]) -> Groups | None:
    """Read how compressed-tensors quantizes weights."""
    if weights.get("strategy") == "block":
        return _block(weights.get("block_structure"))
    size = number(weights, "group_size", default=0)
    return Groups(size) if weights.get("strategy") == "group" and size > 0 else None
