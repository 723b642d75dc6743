"""Checkpoints of a few layers with random weights, which load in no time."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

DEMO = Path(__file__).parents[2] / "models/smollm2-135m-instruct-bf16"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # the least that vLLM's attention on a CPU takes
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 49152,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny_llama(folder: Path, **config: object) -> Path:
    """Write a Llama with the demo model's tokenizer; the same for the same config.

    Args:
        folder: made if it is missing.
        config: fields of config.json, over those of `LLAMA`.
    """
    merged = LLAMA | config
    hidden, inner, head = merged["hidden_size"], merged["intermediate_size"], merged["head_dim"]
    queries, keys = merged["num_attention_heads"] * head, merged["num_key_value_heads"] * head
    generator = torch.Generator().manual_seed(0)

    def matrix(rows, columns):
        # Large enough that the likeliest token stands out: sums over ranks round differently.
        return torch.randn(rows, columns, generator=generator) * (2 / columns**0.5)

    weights = {
        "model.embed_tokens.weight": matrix(merged["vocab_size"], hidden),
        "lm_head.weight": matrix(merged["vocab_size"], hidden),
        "model.norm.weight": torch.ones(hidden),
    }
    for index in range(merged["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        weights |= {
            f"{layer}.self_attn.q_proj.weight": matrix(queries, hidden),
            f"{layer}.self_attn.k_proj.weight": matrix(keys, hidden),
            f"{layer}.self_attn.v_proj.weight": matrix(keys, hidden),
            f"{layer}.self_attn.o_proj.weight": matrix(hidden, queries),
            f"{layer}.mlp.gate_proj.weight": matrix(inner, hidden),
            f"{layer}.mlp.up_proj.weight": matrix(inner, hidden),
            f"{layer}.mlp.down_proj.weight": matrix(hidden, inner),
            f"{layer}.input_layernorm.weight": torch.ones(hidden),
            f"{layer}.post_attention_layernorm.weight": torch.ones(hidden),
        }
    _save(folder, merged, weights)
    return _with_tokenizer(folder)


def lora(folder: Path, rank: int = 4) -> Path:
    """Write a LoRA adapter of the demo model that changes what it says."""
    demo = json.loads((DEMO / "config.json").read_text())
    hidden, heads = demo["hidden_size"], demo["num_attention_heads"]
    rows = {"q_proj": hidden, "v_proj": hidden // heads * demo["num_key_value_heads"]}
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for layer in range(demo["num_hidden_layers"]):
        for name, out in rows.items():
            module = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{module}.lora_A.weight"] = torch.randn(rank, hidden, generator=generator) / 8
            weights[f"{module}.lora_B.weight"] = torch.randn(out, rank, generator=generator) / 8
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(rows),
        "base_model_name_or_path": "org/smollm2",
    }
    return _save(folder, config, weights, prefix="adapter_")


def eagle_head(folder: Path) -> Path:
    """Write an EAGLE head of one layer for the demo model: it expects the last token once more.

    It passes the model's own hidden state on, and its layer adds nothing to it.
    """
    config = json.loads((DEMO / "config.json").read_text()) | {"num_hidden_layers": 1}
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    weights = {f"layers.0.{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    weights["layers.0.post_attention_layernorm.weight"] = torch.ones(hidden)
    weights["fc.weight"] = torch.cat((torch.zeros(hidden, hidden), torch.eye(hidden)), dim=1)
    return _save(folder, config, weights)


def tiny_bert(folder: Path) -> Path:
    """Write a cross-encoder of two layers, which scores a pair of texts with one number."""
    hidden, inner, layers, vocabulary = 64, 128, 2, 49152
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "torch_dtype": "float32",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "position_embedding_type": "absolute",
        "layer_norm_eps": 1e-12,
        "vocab_size": vocabulary,
        "pad_token_id": 0,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    shapes = {
        "bert.embeddings.word_embeddings": (vocabulary, hidden),
        "bert.embeddings.position_embeddings": (512, hidden),
        "bert.embeddings.token_type_embeddings": (2, hidden),
        "bert.pooler.dense": (hidden, hidden),
        "classifier": (1, hidden),
    }
    norms = ["bert.embeddings.LayerNorm"]
    for index in range(layers):
        layer = f"bert.encoder.layer.{index}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{layer}.attention.{name}"] = (hidden, hidden)
        shapes[f"{layer}.intermediate.dense"] = (inner, hidden)
        shapes[f"{layer}.output.dense"] = (hidden, inner)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"{name}.weight": torch.randn(shape, generator=generator) / 8
        for name, shape in shapes.items()
    }
    for name, shape in shapes.items():
        if "embeddings" not in name:
            weights[f"{name}.bias"] = torch.zeros(shape[0])
    for name in norms:
        weights |= {f"{name}.weight": torch.ones(hidden), f"{name}.bias": torch.zeros(hidden)}
    _save(folder, config, weights, dtype=torch.float32)
    return _with_tokenizer(folder)


def _save(
    folder: Path,
    config: dict,
    weights: dict[str, torch.Tensor],
    dtype: torch.dtype = torch.bfloat16,
    prefix: str = "",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}config.json").write_text(json.dumps(config))
    weights = {name: weight.to(dtype) for name, weight in weights.items()}
    save_file(weights, folder / f"{prefix}model.safetensors", {"format": "pt"})
    return folder


def _with_tokenizer(folder: Path) -> Path:
    for name in TOKENIZER_FILES:
        if (DEMO / name).is_file():
            shutil.copyfile(DEMO / name, folder / name)
    return folder
