"""4-bit weights on a processor for which vLLM has no kernel, against the formula of the format."""

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns while it is imported

INPUTS, OUTPUTS, GROUPS = 64, 32, 2


def parameter(data, **dimensions):
    import torch

    made = torch.nn.Parameter(data, requires_grad=False)
    for name, value in dimensions.items():
        setattr(made, name, value)
    return made


def packed(values, kind, packed_dim):
    from vllm.model_executor.layers.quantization.utils.quant_utils import (
        pack_quantized_values_into_int32,
    )

    return pack_quantized_values_into_int32(values, kind, packed_dim)


@pytest.fixture
def layers():
    """Return a layer with zero points or without, its kernel, and its weight (inputs, outputs)."""
    import torch
    from vllm.model_executor.kernels.linear import CPUWNA16LinearKernel
    from vllm.model_executor.kernels.linear.mixed_precision.MPLinearKernel import (
        MPLinearLayerConfig,
    )
    from vllm.scalar_type import scalar_types

    def make(zero_points, by_output):
        torch.manual_seed(0)
        kind = scalar_types.uint4 if zero_points else scalar_types.uint4b8
        values = torch.randint(0, 16, (INPUTS, OUTPUTS), dtype=torch.int32)
        zeros = torch.randint(0, 16, (GROUPS, OUTPUTS), dtype=torch.int32)
        zeros = zeros if zero_points else torch.full_like(zeros, 8)
        scales = torch.rand(GROUPS, OUTPUTS)
        layer = torch.nn.Module()
        if by_output:  # as compressed-tensors has them, and AWQ its zero points
            dimensions = {"input_dim": 1, "output_dim": 0}
            layer.q = parameter(packed(values.t(), kind, 1), packed_dim=1, **dimensions)
            layer.s = parameter(scales.t(), **dimensions)
            layer.z = parameter(packed(zeros.t(), kind, 0), packed_dim=0, **dimensions)
        else:
            dimensions = {"input_dim": 0, "output_dim": 1}
            layer.q = parameter(packed(values, kind, 0), packed_dim=0, **dimensions)
            layer.s = parameter(scales, **dimensions)
            layer.z = parameter(packed(zeros, kind, 1), packed_dim=1, **dimensions)
        shape = (INPUTS, OUTPUTS)
        config = MPLinearLayerConfig(
            shape, shape, kind, torch.float32, INPUTS // GROUPS, zero_points
        )
        kernel = CPUWNA16LinearKernel(config, "q", "s", "z")
        of_group = INPUTS // GROUPS
        weight = (values - zeros.repeat_interleave(of_group, 0)) * scales.repeat_interleave(
            of_group, 0
        )
        return layer, kernel, weight

    return make


@pytest.mark.parametrize("by_output", [False, True], ids=["by input", "by output"])
@pytest.mark.parametrize("zero_points", [False, True], ids=["symmetric", "zero points"])
def test_the_result_is_that_of_the_dequantized_weight(layers, zero_points, by_output):
    import torch

    from handler.engine.vllm import dequantized

    layer, kernel, weight = layers(zero_points, by_output)
    x, bias = torch.rand(3, INPUTS), torch.rand(OUTPUTS)
    dequantized._dequantize(kernel, layer)
    torch.testing.assert_close(dequantized._apply(kernel, layer, x), x @ weight)
    torch.testing.assert_close(dequantized._apply(kernel, layer, x, bias), x @ weight + bias)
    halves = dequantized._apply(kernel, layer, x.half())
    assert halves.dtype == torch.float16


@pytest.mark.parametrize("has_kernel", [True, False])
def test_it_is_used_only_where_vllm_has_no_kernel(monkeypatch, has_kernel):
    import torch
    from vllm.model_executor.kernels.linear import CPUWNA16LinearKernel

    from handler.engine.vllm import dequantized

    operators = SimpleNamespace(**{dequantized.OPERATOR: None} if has_kernel else {})
    monkeypatch.setattr(torch.ops, "_C", operators)
    for name in ("process_weights_after_loading", "apply_weights"):
        monkeypatch.setattr(CPUWNA16LinearKernel, name, "vLLM's own")
    dequantized.dequantize_without_kernel()
    is_own = CPUWNA16LinearKernel.apply_weights == "vLLM's own"
    assert is_own == has_kernel
