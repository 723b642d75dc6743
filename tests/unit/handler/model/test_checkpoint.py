"""What a checkpoint's own files say of it."""

import json

import pytest

from handler.model.checkpoint import has_fp8_cache


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 8}}, True),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, True),
        ({"quant_method": "fp8", "kv_cache_scheme": None}, False),
        ({}, False),
    ],
    ids=["compressed-tensors", "modelopt", "weights only", "unquantized"],
)
def test_a_checkpoint_may_ask_for_an_fp8_kv_cache(tmp_path, quantization, expected):
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    assert has_fp8_cache(tmp_path) == expected
