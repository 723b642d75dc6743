"""Attention heads and the KV cache of plain decoders; what is not plain is not calculated."""

import pytest

from builder.plan.architecture import parse_architecture
from handler.errors import ModelUnavailable
from handler.model.attention import (
    attention_heads,
    default_context_tokens,
    heads_split_evenly,
    kv_bytes_per_token,
)
from tests.support import model_configs
from tests.support.model_configs import (
    ALTERNATING_WINDOW,
    DEEPSEEK_V3,
    FALCON_7B,
    GEMMA_3_4B,
    GEMMA_4,
    LAYER_FIELDS,
    LLAMA_70B,
    PHI_3_5,
    QWEN3_8B,
    QWEN3_235B,
    QWEN3_NEXT,
    QWEN_72B,
    SIX_LAYERS,
)

# Presets with windows or recurrent layers.
HYBRID = {
    "openai/gpt-oss-20b",
    "openai/gpt-oss-120b",
    "Qwen/Qwen3.6-27B-FP8",
    "Qwen/Qwen3.6-35B-A3B-FP8",
    "RedHatAI/gemma-4-31B-it-FP8-block",
}
PLAIN = {
    **{name: made for name, made in model_configs.PRESETS.items() if name not in HYBRID},
    "llama": LLAMA_70B,
    "multimodal llama": {"vision_config": {}, "text_config": LLAMA_70B},
    "qwen 72b": QWEN_72B,
    "mixture": QWEN3_235B,
    "window is off": QWEN3_8B | {"sliding_window": 4096},
    "only full attention": SIX_LAYERS
    | {"num_key_value_heads": 4, "layer_types": ["full_attention"] * 6},
}
NOT_PLAIN = {
    **{name: model_configs.PRESETS[name] for name in HYBRID},
    "mla": DEEPSEEK_V3,
    "recurrent": QWEN3_NEXT,
    "alternating window": ALTERNATING_WINDOW,
    "gemma 3": GEMMA_3_4B,
    "gemma 4": GEMMA_4,
    "window": PHI_3_5,
    "falcon": FALCON_7B,
    "KV heads not given": SIX_LAYERS,
    "encoder": LLAMA_70B | {"is_encoder_decoder": True},
    "not causal": LLAMA_70B | {"is_causal": False},
    "other value heads": LLAMA_70B | {"v_head_dim": 64},
    "cross-layer attention": LLAMA_70B | {"cla_share_factor": 2},
    "layers not given": LLAMA_70B | {"num_hidden_layers": None},
    "too few layer types": LLAMA_70B | {"layer_types": ["full_attention"] * 79},
    "a new layer type": LLAMA_70B | {"layer_types": ["a_new_one"] * 80},
}


@pytest.mark.parametrize("config", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("element_bytes", [1, 2])
def test_the_kv_cache_of_a_plain_decoder_is_that_of_builder_plan(config, gpus, element_bytes):
    expected = parse_architecture(config).kv_bytes(10_000, element_bytes, gpus)
    assert kv_bytes_per_token(config, element_bytes, gpus) * 10_000 == expected


@pytest.mark.parametrize("config", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_the_kv_cache_of_other_models_is_left_to_the_engine(config):
    assert kv_bytes_per_token(config, 2, 1) is None


@pytest.mark.parametrize("fields", [fields for fields, _ in LAYER_FIELDS])
def test_no_description_of_layers_is_calculated_differently_from_builder_plan(fields):
    config = SIX_LAYERS | {"num_key_value_heads": 4, "head_dim": 64} | fields
    token_bytes = kv_bytes_per_token(config, 2, 1)
    try:
        expected = parse_architecture(config).kv_bytes(1 << 20)
    except ModelUnavailable:
        expected = None
    assert token_bytes is None or token_bytes << 20 == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 131072),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 131072),
        ({"rope_parameters": {"rope_type": "default"}}, 131072),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, None),
        ({"rope_scaling": {"type": "longrope"}}, None),
        ({"rope_scaling": "yarn"}, None),
        ({"model_max_length": 131072}, 131072),
        ({"model_max_length": 4096}, None),
        ({"max_position_embeddings": None}, None),
    ],
    ids=str,
)
def test_the_default_context_is_that_of_builder_plan_or_not_known(fields, expected):
    config = LLAMA_70B | fields
    assert default_context_tokens(config) == expected
    if expected is not None:
        assert parse_architecture(config).context_tokens == expected


@pytest.mark.parametrize(
    ("heads", "kv_heads", "expected"),
    [
        (64, 8, [1, 2, 4, 8, 16]),
        (40, 10, [1, 2]),
        (28, 4, [1, 2, 4]),
        (71, 1, [1]),
        (16, 1, [1, 2, 4, 8, 16]),
    ],
)
def test_heads_are_split_evenly_and_kv_heads_may_be_copied(heads, kv_heads, expected):
    gpus = [1, 2, 4, 8, 16]
    assert [n for n in gpus if heads_split_evenly(n, heads, kv_heads)] == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA_70B, (64, 8)),
        ({"vision_config": {"num_attention_heads": 16}, "text_config": LLAMA_70B}, (64, 8)),
        (SIX_LAYERS, (8, None)),
        ({"num_attention_heads": 0}, (None, None)),
        ({"num_attention_heads": "8"}, (None, None)),
    ],
    ids=["text", "multimodal", "no KV heads", "zero", "no number"],
)
def test_attention_heads_are_read_where_they_are_given(config, expected):
    assert attention_heads(config) == expected
