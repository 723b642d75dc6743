"""4-bit weights on an x86 processor without AVX-512, for which vLLM's CPU build has no kernel.

They are dequantized when they are loaded and computed in float32: eight times their memory. Most
laptops and many hosts for continuous integration have such a processor.
"""

import functools
import logging
from typing import Any

import torch
from vllm.model_executor.kernels.linear import CPUWNA16LinearKernel
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    unpack_quantized_values_into_int32,
)

log = logging.getLogger(__name__)

OPERATOR = "cpu_gemm_wna16"


def dequantize_without_kernel() -> None:
    """Compute 4-bit weights in float32, if the processor's build of vLLM lacks their kernel.

    Call it in the process that computes, before the model is loaded.
    """
    if hasattr(torch.ops._C, OPERATOR):
        return
    CPUWNA16LinearKernel.process_weights_after_loading = _dequantize
    CPUWNA16LinearKernel.apply_weights = _apply


@functools.cache
def _warn_once() -> None:
    log.warning("vLLM has no 4-bit kernel for this processor: such weights are computed in 32 bits")


def _dequantize(kernel: Any, layer: Any) -> None:
    """Replace the packed weights by a float32 matrix of shape (outputs, inputs)."""
    _warn_once()
    kind = kernel.config.weight_type
    packed, scales = getattr(layer, kernel.w_q_name), getattr(layer, kernel.w_s_name)
    by_input = packed.t() if packed.input_dim == 1 else packed  # (inputs / 8, outputs)
    values = unpack_quantized_values_into_int32(by_input.data, kind, 0)
    scales = scales.t() if scales.output_dim == 0 else scales  # (groups, outputs)
    if kernel.config.zero_points:
        zeros = getattr(layer, kernel.w_zp_name)
        zeros = zeros.t() if zeros.output_dim == 0 else zeros  # (groups, outputs / 8)
        offsets = unpack_quantized_values_into_int32(zeros.data, kind, 1)
    else:
        offsets = torch.full(scales.shape, kind.bias)
    groups, outputs = scales.shape
    grouped = values.reshape(groups, -1, outputs) - offsets[:, None]
    weight = (grouped * scales.data.float()[:, None]).reshape(-1, outputs).t().contiguous()
    setattr(layer, kernel.w_q_name, torch.nn.Parameter(weight, requires_grad=False))


def _apply(
    kernel: Any, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    weight = getattr(layer, kernel.w_q_name)
    result = torch.nn.functional.linear(x.float(), weight, None if bias is None else bias.float())
    return result.to(x.dtype)
