"""The KV cache and the sizes of a model, from its config.json."""

import pytest

from builder.plan.architecture import parse_architecture
from tests.support.model_configs import (
    ALTERNATING_WINDOW,
    DEEPSEEK_V3,
    FALCON_7B,
    GEMMA_3_4B,
    GEMMA_4,
    LLAMA_70B,
    PHI_3_5,
    QWEN3_NEXT,
    SIX_LAYERS,
)


def test_the_kv_cache_of_llama_70b_is_the_published_one():
    model = parse_architecture(LLAMA_70B)
    assert model.kv_bytes(4096) == 80 * 2 * 8 * 128 * 4096 * 2 == 1_342_177_280
    assert model.kv_bytes(4096, element_bytes=1) == 671_088_640
    assert model.kv_bytes_per_token() == 327_680


def test_gpus_share_kv_heads_but_not_one_head():
    model = parse_architecture(LLAMA_70B)
    assert [model.kv_bytes(1, gpus=gpus) for gpus in (1, 4, 8, 16)] == [327680, 81920, 40960, 40960]


def test_mla_keeps_one_vector_on_every_gpu():
    model = parse_architecture(DEEPSEEK_V3)
    assert [model.kv_bytes(1, gpus=gpus) for gpus in (1, 8)] == [61 * 576 * 2] * 2
    assert model.kv_bytes(1_500_000) == 105_408_000_000
    assert (model.experts, model.experts_per_token, model.mlp_width) == (256, 8, 18432)


def test_sparse_mla_keeps_an_index_besides():
    sparse = parse_architecture(DEEPSEEK_V3 | {"model_type": "deepseek_v32", "index_head_dim": 128})
    assert sparse.kv_bytes(1) == 61 * (576 * 2 + 132)


def test_a_sliding_window_limits_the_tokens_that_are_kept():
    model = parse_architecture(ALTERNATING_WINDOW)
    layer_bytes = 8 * 2 * 64 * 2
    assert model.kv_bytes(100) == 24 * 100 * layer_bytes
    assert model.kv_bytes(10_000) == 12 * 10_000 * layer_bytes + 12 * 128 * layer_bytes
    assert model.kv_bytes_per_token() == 24 * layer_bytes
    assert model.kv_bytes_per_token(at=10_000) == 12 * layer_bytes


def test_a_recurrent_state_does_not_grow():
    model = parse_architecture(QWEN3_NEXT)
    attention = 12 * 2 * 2 * 256 * 2
    states = 36 * (3 * (2 * 16 * 128 + 32 * 128) * 2 + 32 * 128 * 128 * 4)
    assert model.kv_bytes(1000) == 1000 * attention + states
    assert model.kv_bytes(1000, states=2) == 1000 * attention + 2 * states
    assert model.kv_bytes_per_token() == attention


def test_the_language_model_of_a_multimodal_model_counts():
    nested = {"vision_config": {"num_hidden_layers": 27}, "text_config": LLAMA_70B}
    assert parse_architecture(nested) == parse_architecture(LLAMA_70B)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 4096),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 1024),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 2048),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 4.0},
                "model_type": "gemma3_text",
                "sliding_window": 512,
            },
            1024,
        ),
        ({"rope_scaling": None}, 1024),
    ],
    ids=["linear", "yarn", "dynamic", "gemma3", "none"],
)
def test_the_longest_context_is_derived_as_vllm_does(fields, tokens):
    config = LLAMA_70B | {"max_position_embeddings": 1024} | fields
    assert parse_architecture(config).context_tokens == tokens


@pytest.mark.parametrize(
    ("fields", "heads", "head_dim"),
    [
        ({}, 4, 512),
        ({"global_head_dim": 384}, 4, 384),
        ({"num_global_key_value_heads": 2, "attention_k_eq_v": True}, 2, 512),
        ({"num_global_key_value_heads": 2, "attention_k_eq_v": False}, 4, 512),
        ({"per_layer_config": {"01": {"head_dim": 384, "num_key_value_heads": 2}}}, 2, 384),
    ],
    ids=["default", "head dim", "keys as values", "keys and values", "by layer"],
)
def test_full_attention_layers_of_gemma_4_have_their_own_heads(fields, heads, head_dim):
    model = parse_architecture(GEMMA_4 | fields)
    assert model.kv_bytes_per_token(at=512) == 2 * heads * head_dim * 2
    assert model.kv_bytes(1) == 2 * heads * head_dim * 2 + 2 * 4 * 256 * 2


@pytest.mark.parametrize(
    ("config", "kv_heads"),
    [
        (FALCON_7B | {"multi_query": True}, 1),
        (FALCON_7B | {"multi_query": True, "num_kv_heads": 71}, 1),
        (FALCON_7B | {"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 8}, 8),
        (SIX_LAYERS | {"multi_query_group_num": 2}, 2),
        (SIX_LAYERS | {"num_attention_groups": 4}, 4),
        (SIX_LAYERS | {"num_key_value_heads": None}, 8),
    ],
    ids=["falcon", "falcon 7b", "falcon 40b", "chatglm", "step", "not given"],
)
def test_each_family_names_its_kv_heads_differently(config, kv_heads):
    assert parse_architecture(config).kv_heads == kv_heads


def test_fields_that_a_published_config_leaves_out_have_the_familys_defaults():
    model = parse_architecture(GEMMA_3_4B)
    layer_bytes = 2 * 4 * 256 * 2
    assert model.kv_bytes(8192) == (5 * 8192 + 29 * 1024) * layer_bytes
    assert (model.context_tokens, model.vocab_size) == (131072, 262208)


def test_a_window_longer_than_the_context_is_none():
    model = parse_architecture(PHI_3_5)
    assert model.kv_bytes_per_token(at=1 << 24) == 32 * 2 * 32 * 96 * 2
    assert model.context_tokens == 131072


@pytest.mark.parametrize(
    ("fields", "experts"),
    [
        ({"num_experts_per_tok": 8}, 8),
        ({"top_k_experts": 8}, 8),
        ({"moe_k": 6}, 6),
        ({"moe_topk": [2, 4, 8]}, 8),
        ({}, 1),
    ],
    ids=["num_experts_per_tok", "top_k_experts", "moe_k", "by layer", "dense"],
)
def test_each_family_names_the_experts_of_a_token_differently(fields, experts):
    assert parse_architecture(SIX_LAYERS | fields).experts_per_token == experts


def test_the_longest_sequence_that_fits_is_rounded_down():
    model = parse_architecture(LLAMA_70B)
    room = model.kv_bytes(21248 + 255)
    assert model.max_tokens(room, 2, 1) == 21248
    assert model.max_tokens(room - model.kv_bytes(255) - 1, 2, 1) == 21248 - 256
