"""Which kind each layer of a model is."""

import pytest

from builder.plan.architecture import parse_architecture
from builder.plan.layers import layer_kinds
from handler.errors import ModelUnavailable
from tests.support.model_configs import LAYER_FIELDS, SIX_LAYERS


@pytest.mark.parametrize(("fields", "expected"), LAYER_FIELDS)
def test_each_family_describes_its_layers_in_its_own_fields(fields, expected):
    kinds = layer_kinds(SIX_LAYERS | fields)
    assert "".join("-" if kind == "none" else kind[0] for kind in kinds) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer_types": ["a_new_one"]}, "config.json has unknown layer types: a_new_one"),
        ({"hybrid_override_pattern": "MX"}, "hybrid_override_pattern has unknown X"),
        (
            {"layer_types": ["indexed_attention"]},
            "indexed_attention without kv_lora_rank is not supported",
        ),
        (
            {"compress_ratios": [4]},
            "layers described by compress_ratios in config.json are not supported",
        ),
        (
            {"block_configs": [{}]},
            "layers described by block_configs in config.json are not supported",
        ),
        (
            {"attn_config": {"kv_n_heads": 8}},
            "layers described by attn_config in config.json are not supported",
        ),
        ({"model_type": "minicpm3"}, "the KV cache of minicpm3 is not supported"),
        (
            {"sliding_window": 9, "sliding_window_pattern": "LLLG"},
            "sliding_window_pattern in config.json must be a number",
        ),
        (
            {"num_attention_heads": 0},
            "config.json has an invalid value (integer division or modulo by zero)",
        ),
        (
            {"layer_types": [["mamba"]]},
            "config.json has an invalid value (unhashable type: 'list')",
        ),
        (
            {"attn_layer_period": 0.5, "attn_layer_offset": 0},
            "config.json has an invalid value (integer modulo by zero)",
        ),
        (
            {"per_layer_config": {"0": 3}},
            "config.json has an invalid value ('int' object has no attribute 'get')",
        ),
        (
            {"linear_attn_config": {"full_attn_layers": ["x"]}},
            "config.json has an invalid value (invalid literal for int() with base 10: 'x')",
        ),
        (
            {"num_hidden_layers": None},
            "config.json has no num_hidden_layers or n_layer or num_layers or n_layers",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_unknown_description_is_an_error_instead_of_a_guess(fields, message):
    with pytest.raises(ModelUnavailable) as raised:
        parse_architecture(SIX_LAYERS | fields)
    assert str(raised.value) == message
