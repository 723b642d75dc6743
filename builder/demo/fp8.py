"""Eight-bit float weights in llm-compressor's data-free FP8_DYNAMIC scheme.

Weights are float8_e4m3 with one scale per output channel; the engine scales activations per
token while it runs, so nothing is calibrated.
"""

from collections.abc import Iterator
from typing import Any

import torch

LARGEST = torch.finfo(torch.float8_e4m3fn).max
SMALLEST_SCALE = 1e-12
# In these layers one input can be 25,000 times a token's median input (layers 11 and 28): with one
# scale per token, FP8 has few steps left for the rest. With these layers in FP8 too, the model
# answers "L'Étoile" when asked for a capital; on some CPUs it does so in any case, for unquantized
# it prefers "The" by a tenth of a nat only.
KEPT = "down_proj"


def quantization_config() -> dict[str, Any]:
    """What compressed-tensors writes into `config.json`."""
    eight_bit_float = {"num_bits": 8, "type": "float", "symmetric": True}
    return {
        "config_groups": {
            "group_0": {
                "input_activations": {**eight_bit_float, "dynamic": True, "strategy": "token"},
                "output_activations": None,
                "targets": ["Linear"],
                "weights": {**eight_bit_float, "dynamic": False, "strategy": "channel"},
            }
        },
        "format": "float-quantized",
        "ignore": ["lm_head", f"re:.*{KEPT}"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def tensors(layer: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The two tensors of one layer from its float32 (out, in) weight.

    weight float8_e4m3 (out, in), weight_scale float32 (out, 1).
    """
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=SMALLEST_SCALE) / LARGEST
    codes = (weight / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    yield f"{layer}.weight", codes
    yield f"{layer}.weight_scale", scale
