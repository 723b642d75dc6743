"""config.json files of published models, cut to the fields that their memory depends on."""

import json
from pathlib import Path

from builder import presets

PRESET_FOLDER = Path(__file__).with_name("preset_configs")

LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
QWEN3_8B = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "rope_scaling": None,
    "sliding_window": None,
    "use_sliding_window": False,
}
# The models of builder/presets.py, whole: of the quantized repository where that was seen, else of
# its base model with the usual quantization_config of its publisher.
PRESETS = {
    preset.model: json.loads(
        (PRESET_FOLDER / f"{preset.model.rpartition('/')[2].lower()}.json").read_text()
    )
    for preset in presets.PRESETS
}
QWEN_72B = {
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
}
QWEN3_NEXT = {
    "model_type": "qwen3_next",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "full_attention_interval": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "mamba_ssm_dtype": "float32",
}
QWEN3_235B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_experts": 128,
    "num_hidden_layers": 94,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 128,
}
# Like gpt-oss: every second layer has a window of 128 tokens.
ALTERNATING_WINDOW = {
    "hidden_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
}
GEMMA_3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152},
}
GEMMA_4 = {
    "model_type": "gemma4_text",
    "hidden_size": 2304,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 512,
}
PHI_3_5 = {
    "model_type": "phi3",
    "hidden_size": 3072,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "sliding_window": 262144,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
}
FALCON_7B = {"hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71}
# No model: six layers, for fields that describe layers in other ways.
SIX_LAYERS = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8}

FP8_BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
AWQ_GROUPS = {"quant_method": "awq", "group_size": 128}


def compressed_tensors_groups(size, **more):
    """Return a quantization_config as llm-compressor writes it."""
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": size, **more}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": weights}},
    }


# Fields that describe layers, and what SIX_LAYERS becomes with them: f full, s sliding, c chunked,
# r recurrent, h hybrid, - no cache.
LAYER_FIELDS = [
    ({}, "ffffff"),
    ({"sliding_window": 4096}, "ssssss"),
    ({"model_type": "qwen2", "sliding_window": 4096}, "ffffff"),
    ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, "ffffff"),
    (
        {
            "model_type": "qwen2",
            "sliding_window": 9,
            "use_sliding_window": True,
            "max_window_layers": 4,
        },
        "ffffss",
    ),
    ({"model_type": "gemma2", "sliding_window": 4096}, "sfsfsf"),
    ({"model_type": "gemma3_text", "sliding_window": 1024}, "sssssf"),
    ({"sliding_window": 1024, "sliding_window_pattern": 3}, "ssfssf"),
    ({"model_type": "llama4_text", "attention_chunk_size": 8192}, "cccfcc"),
    ({"attention_chunk_size": 8192, "no_rope_layers": [1, 0, 1, 1, 1, 0]}, "cfcccf"),
    ({"layer_types": ["linear_attention"] * 3 + ["full_attention"]}, "rrrf"),
    ({"layer_types": ["full_attention"] * 6}, "ffffff"),
    ({"layer_types": ["full_attention"] * 6, "num_kv_shared_layers": 2}, "ffff--"),
    ({"hybrid_override_pattern": "M-M*E-"}, "r-rf--"),
    ({"layer_types": ["indexed_attention"] * 2, "kv_lora_rank": 512}, "ff"),
    ({"layers_block_type": ["mamba", "moe", "attention", "mlp"]}, "r-f-"),
    ({"layers_block_type": ["mamba", "hybrid"]}, "rh"),
    ({"attn_layer_indices": [2, 5]}, "rrfrrf"),
    ({"full_attn_idxs": [2, 5]}, "rrfrrf"),
    ({"attn_layer_period": 3, "attn_layer_offset": 1}, "rfrrfr"),
    ({"attn_type_list": [0, 0, 1, 0, 0, 1]}, "rrfrrf"),
    ({"linear_attn_config": {"full_attn_layers": [3, 6]}}, "rrfrrf"),
    ({"model_type": "falcon_mamba", "state_size": 16}, "rrrrrr"),
    ({"model_type": "falcon_h1", "mamba_d_state": 128}, "hhhhhh"),
]
