"""QUANTIZATION under any name of an engine, against the method of a checkpoint."""

import pytest

from handler.errors import InvalidSetting
from handler.model.quantization import check_quantization


@pytest.mark.parametrize(
    ("setting", "method"),
    [
        ("auto", "awq"),
        ("awq", "awq"),
        ("awq_marlin", "awq"),
        ("auto_awq", "awq"),
        ("marlin", "awq"),
        ("moe_wna16", "awq"),
        ("gptq_marlin", "gptq"),
        ("auto_gptq", "gptq"),
        ("marlin", "gptq"),
        ("gptq_marlin", "compressed-tensors-int4"),
        ("w8a8_fp8", "compressed-tensors-fp8"),
        ("w8a8_int8", "compressed-tensors"),
        ("compressed_tensors", "compressed-tensors-int4"),
        ("fp8", "modelopt-fp8"),
        ("modelopt_fp8", "modelopt-fp8"),
        ("modelopt_fp4", "modelopt"),
        ("fp8", "fbgemm_fp8"),
        ("gpt_oss_mxfp4", "mxfp4"),
        ("inc", "auto-round"),
        ("humming", "awq"),
        ("awq", "compressed-tensors-int4"),
        ("fp8", "compressed-tensors-fp8"),
        ("compressed-tensors", "compressed-tensors-fp8"),
        ("none", None),
        ("fp8", None),  # the engine quantizes the weights while it loads them
    ],
)
def test_quantization_may_name_the_method_or_its_family(setting, method):
    check_quantization(setting, method, "m")


@pytest.mark.parametrize(
    ("setting", "method"),
    [
        ("aw", "awq"),
        ("fp8", "awq"),
        ("none", "awq"),
        ("awq", "gptq"),
        ("awq_marlin", "gptq"),
        ("w8a8_fp8", "awq"),
        ("w8a8_int8", "compressed-tensors-fp8"),
    ],
)
def test_quantization_that_contradicts_the_checkpoint_is_an_error(setting, method):
    with pytest.raises(InvalidSetting) as caught:
        check_quantization(setting, method, "m")
    assert str(caught.value) == (
        f"QUANTIZATION={setting!r} contradicts the checkpoint: m is quantized as {method!r}. "
        "Leave QUANTIZATION unset, or choose another model."
    )


@pytest.mark.parametrize("setting", ["awq", "gptq_marlin", "compressed-tensors"])
def test_a_method_that_no_engine_computes_needs_a_quantized_checkpoint(setting):
    with pytest.raises(InvalidSetting) as caught:
        check_quantization(setting, None, "m")
    assert str(caught.value) == (
        f"QUANTIZATION={setting!r} contradicts the checkpoint: m is not quantized. "
        "Leave QUANTIZATION unset, or choose a quantized model."
    )
