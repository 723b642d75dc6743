"""A checkpoint's own files: its quantization."""

import json

import pytest

from handler.errors import ModelUnavailable
from handler.model.checkpoint import has_fp8_cache, quantization_of
from tests.support.model_folders import model_folder

FP8_GROUP = {"group_0": {"weights": {"type": "float", "num_bits": 8}}}
INT4_WEIGHTS = {"weights": {"type": "int", "num_bits": 4}}


def compressed_tensors(groups):
    return {"quant_method": "compressed-tensors", "config_groups": groups}


@pytest.mark.parametrize(
    ("quantization", "method"),
    [
        (None, None),
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "AWQ"}, "awq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "gptq"}, "gptq"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        (compressed_tensors(FP8_GROUP), "compressed-tensors-fp8"),
        (compressed_tensors({"group_0": INT4_WEIGHTS}), "compressed-tensors-int4"),
        (compressed_tensors(FP8_GROUP | {"1": INT4_WEIGHTS}), "compressed-tensors"),
        (compressed_tensors({"0": None}), "compressed-tensors"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt-fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_NVFP4_FP8"}, "modelopt"),
        ({"quant_algo": "FP8"}, "modelopt-fp8"),
    ],
)
def test_the_method_includes_the_format_in_a_container(tmp_path, quantization, method):
    assert quantization_of(model_folder(tmp_path, quantization)) == method


@pytest.mark.parametrize(
    ("config", "files", "method"),
    [
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, {}, "awq"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, {}, "compressed-tensors"),
        (
            {},
            {"hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}}},
            "modelopt-fp8",
        ),
    ],
    ids=["text_config", "compression_config", "hf_quant_config.json"],
)
def test_the_method_is_found_wherever_a_quantization_tool_writes_it(
    tmp_path, config, files, method
):
    for name, content in {"config.json": config, **files}.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert quantization_of(tmp_path) == method


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "config.json must be a JSON object"),
        ("{", "config.json cannot be read"),
        ("[" * 200_000, "config.json cannot be read"),
        (
            '{"quantization_config": "x"}',
            "quantization_config in config.json must be a JSON object",
        ),
    ],
    ids=["list", "broken", "deep", "quantization"],
)
def test_an_invalid_config_json_is_an_error_in_one_sentence(tmp_path, config, message):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelUnavailable) as caught:
        quantization_of(tmp_path)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 8}}, True),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, True),
        ({"quant_method": "fp8", "kv_cache_scheme": None}, False),
        (None, False),
    ],
    ids=["compressed-tensors", "modelopt", "weights only", "unquantized"],
)
def test_a_checkpoint_may_ask_for_an_fp8_kv_cache(tmp_path, quantization, expected):
    folder = model_folder(tmp_path, quantization)
    assert has_fp8_cache(folder) == expected
