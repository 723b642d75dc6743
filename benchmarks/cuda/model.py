"""The models and cases that are measured; a model is config.json and a tokenizer, no weights.

The engine fills the weights itself (`load_format=dummy`), so a model is its shapes and its
quantization. What such a model writes means nothing; how fast it does is what a trained one of
these shapes would take. The tokenizer has as many tokens as the model: each token is some text.
"""

import itertools
import json
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

LETTERS = 4  # of a token that is no single byte: 26⁴ of them are more than any vocabulary here


@dataclass(frozen=True)
class Shapes:
    """The sizes of a Llama.

    Attributes:
        hidden: of the residual stream.
        intermediate: of the MLP; like `hidden` a multiple of AWQ's group.
        layers: how many.
        heads: of the queries.
        kv_heads: of keys and values.
        vocabulary: tokens, with `<s>` and `</s>` as the last two.
        rope_theta: base of the rotary embedding.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    rope_theta: float


SHAPES: Mapping[str, Shapes] = {
    "8b": Shapes(4096, 14336, 32, 32, 8, 128_256, 500_000.0),  # Llama 3.1 8B
    "tiny": Shapes(256, 512, 2, 4, 2, 1024, 10_000.0),
}

# As checkpoints carry it; which kernel that becomes is the engine's choice. For AWQ it takes Marlin
# where nobody asks for `awq` by name.
QUANTIZATION: Mapping[str, dict[str, Any] | None] = {
    "none": None,
    "fp8": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 8,
                    "type": "float",
                    "symmetric": True,
                    "strategy": "channel",
                    "dynamic": False,
                },
                "input_activations": {
                    "num_bits": 8,
                    "type": "float",
                    "symmetric": True,
                    "strategy": "token",
                    "dynamic": True,
                },
            }
        },
    },
    "awq": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 128,
        "version": "gemm",
        "zero_point": True,
    },
}

ENGINE, WORKER = "benchmarks.cuda.engine", "benchmarks.cuda.worker"
MAX_MODEL_TOKENS = 2048
# The same for the engine alone and in the worker: their defaults differ in how they are started.
FLAGS = {
    "load_format": "dummy",
    "max_model_len": MAX_MODEL_TOKENS,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
}
NGRAM = {
    "method": "ngram",
    "num_speculative_tokens": 4,
    "prompt_lookup_max": 4,
    "prompt_lookup_min": 2,
}
REPETITIVE_STREAMS = (1, 16)


@dataclass(frozen=True)
class Case:
    """One model, and how it is run.

    Attributes:
        name: in the report.
        quantization: a key of `QUANTIZATION`.
        module: what runs it.
        cold: whether it is started with empty caches first.
        load: whether it is measured with random prompts.
        repetitive: whether with repetitive ones.
        flags: engine arguments beside `FLAGS`.
    """

    name: str
    quantization: str
    module: str = ENGINE
    cold: bool = False
    load: bool = True
    repetitive: bool = False
    flags: Mapping[str, Any] = field(default_factory=dict)


# What matters most first: the time may run out.
CASES = (
    Case("fp8", "fp8", cold=True, repetitive=True),
    Case("fp8-worker", "fp8", module=WORKER),
    Case("bf16", "none", cold=True),
    Case("awq", "awq", cold=True),
    Case("fp8-ngram", "fp8", load=False, repetitive=True, flags={"speculative_config": NGRAM}),
    # Not of the FP8 model: there the made-up weights fill the scales of keys and values as well.
    Case("bf16-kv-fp8", "none", flags={"kv_cache_dtype": "fp8"}),
)


def write(folder: Path, shapes: Shapes, quantization: str) -> Path:
    """Write a model's folder.

    Args:
        folder: where to, made if need be.
        shapes: the model's sizes.
        quantization: a key of `QUANTIZATION`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(configuration(shapes, quantization), indent=1))
    tokenizer(shapes.vocabulary).save(str(folder / "tokenizer.json"))
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def configuration(shapes: Shapes, quantization: str) -> dict[str, Any]:
    """Return what config.json says."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": shapes.hidden,
        "intermediate_size": shapes.intermediate,
        "num_hidden_layers": shapes.layers,
        "num_attention_heads": shapes.heads,
        "num_key_value_heads": shapes.kv_heads,
        "head_dim": shapes.hidden // shapes.heads,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": shapes.rope_theta,
        "tie_word_embeddings": False,
        "vocab_size": shapes.vocabulary,
        "bos_token_id": shapes.vocabulary - 2,
        "eos_token_id": shapes.vocabulary - 1,
    }
    quantized = QUANTIZATION[quantization]
    return config if quantized is None else config | {"quantization_config": quantized}


def tokenizer(vocabulary: int) -> Tokenizer:
    """Return a tokenizer of so many tokens, special ones included: all bytes, then words."""
    single = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = map("".join, itertools.product(string.ascii_lowercase, repeat=LETTERS))
    texts = [*single, *itertools.islice(words, vocabulary - len(single) - 2)]
    made = Tokenizer(models.BPE({text: index for index, text in enumerate(texts)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    return made
