"""Whether quantized weights can be split over GPUs: those that share a scale stay together.

A layer has a scale for each group of its inputs, or for each block of inputs and outputs. Written
against vLLM's own checks: `verify_group_size_divides_partition` (`vllm/distributed/utils.py`),
`validate_fp8_block_shape` (`quantization/utils/fp8_utils.py`), `refine_fp8_moe_block_shape`
(`fused_moe/oracle/fp8.py`) and `MoeWNA16Method` (`quantization/moe_wna16.py`).
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from handler.memory.architecture import Architecture
from handler.memory.layers import Config, number, text_config

SMALLEST = 32  # of the pieces into which vLLM cuts groups and blocks
# In lists of what is not quantized: names of modules, or of all that they are in, or expressions
# for such. `\W{1,2}` is a dot, escaped or not.
DENSE = re.compile(
    r"\blayers\W{1,2}0(\W*|\W{1,2}mlp\W*|\W{1,2}mlp\W{1,2}(gate|up|gate_up|down)_proj)$"
)
SHARED = re.compile(r"shared_experts?(?!_gate)")
EXCEPTIONS = ("modules_to_not_convert", "ignored_layers", "ignore")


@dataclass(frozen=True)
class Groups:
    """How weights share scales.

    Attributes:
        inputs: of a layer that share one.
        outputs: that share one; 1 where there are groups and no blocks.
        are_cut: whether vLLM cuts those of experts and of keys where need be, in this format.
        but_dense, but_shared: whether a mixture's dense layers, or its shared experts, are not
            quantized.
    """

    inputs: int
    outputs: int = 1
    are_cut: bool = False
    but_dense: bool = False
    but_shared: bool = False


def groups(config: Mapping[str, Any]) -> Groups | None:
    """Read a quantized model's configuration, None where each scale is of a whole row or layer."""
    text = text_config(config)
    found = config.get("quantization_config") or text.get("quantization_config")
    found = found or config.get("compression_config")
    if not isinstance(found, dict):
        return None
    largest = max(_groups(found), key=lambda each: each.inputs, default=None)
    if largest is None:
        return None
    lists = [names for key in EXCEPTIONS if isinstance(names := found.get(key), list)]
    names = [str(name) for each in lists for name in each]
    return replace(
        largest,
        but_dense=any(DENSE.search(name) for name in names),
        but_shared=any(SHARED.search(name) for name in names),
    )


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
    for width in _whole(shared, model):
        if width % (gpus * shared.inputs):
            return f"{what} of {shared.inputs} do not divide {width} / {gpus}"
    keys = max(1, model.kv_heads // gpus) * model.key_width
    if keys % shared.outputs and not shared.are_cut:
        return f"blocks of {shared.outputs} do not divide the {keys} keys of each GPU"
    expert = model.expert_width
    if expert % (gpus * shared.inputs) == 0:
        return None
    piece = math.gcd(shared.inputs, expert // gpus, model.hidden)
    can_be_cut = shared.are_cut and expert % gpus == 0 and piece >= SMALLEST
    if can_be_cut and (shared.outputs == 1 or has_fp8):
        return None
    why = "no FP8, and " if can_be_cut else ""
    return f"{why}{what} of {shared.inputs} do not divide the experts' {expert} / {gpus}"


def _whole(shared: Groups, model: Architecture) -> Iterator[int]:
    """Give the widths that are quantized, but for the experts'."""
    yield model.attention_width
    if not (model.experts > 1 and shared.but_dense):
        yield model.dense_width
    if not shared.but_shared:
        yield model.shared_width


def _groups(quantization: Config) -> Iterator[Groups]:
    method = str(quantization.get("quant_method")).lower()
    if method == "fp8":
        yield from _block(quantization.get("weight_block_size"), are_cut=True)
    size = number(quantization, "group_size", "q_group_size", default=0)
    if method in ("awq", "gptq") and size > 0:
        yield Groups(size, are_cut=True)
    schemes = quantization.get("config_groups")  # compressed-tensors'
    for scheme in schemes.values() if isinstance(schemes, dict) else ():
        weights = scheme.get("weights") if isinstance(scheme, dict) else None
        if isinstance(weights, dict):
            yield from _of_scheme(weights)


def _of_scheme(weights: Config) -> Iterator[Groups]:
    if weights.get("strategy") == "block":
        yield from _block(weights.get("block_structure"), are_cut=False)
    size = number(weights, "group_size", default=0)
    if weights.get("strategy") == "group" and size > 0:
        yield Groups(size)


def _block(sides: Any, are_cut: bool) -> Iterator[Groups]:
    if isinstance(sides, list) and len(sides) == 2 and all(isinstance(n, int) for n in sides):
        outputs, inputs = sides
        if outputs > 0 and inputs > 0:
            yield Groups(inputs, outputs, are_cut)
