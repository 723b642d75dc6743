"""A Llama model in a GGUF file → Hugging Face's configuration, tokenizer and weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from builder.errors import GgufError

# llama.cpp's tensor names → Hugging Face's, outside the layers and inside each of them:
# https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/tensor_mapping.py
MODEL_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class LlamaGguf:
    """An open GGUF file.

    Raises:
        GgufError: it is not a GGUF file, holds another kind of model, or lacks a key.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._reader = gguf.GGUFReader(path)
        except ValueError as error:
            raise GgufError(f"{path} is not a GGUF file: {error}") from error
        self._path = path
        if (architecture := self.value("general.architecture")) != "llama":
            raise GgufError(f"{path} holds {architecture!r}, not 'llama'")

    def value(self, key: str) -> Any:
        """Return the value of a metadata key."""
        field = self._reader.get_field(key)
        if field is None:
            raise GgufError(f"{self._path} has no {key}")
        return field.contents()

    def config(self) -> dict[str, Any]:
        """Return the content of `config.json`, without a dtype."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "bos_token_id": self.value("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self.value("tokenizer.ggml.eos_token_id"),
            "head_dim": self.value("llama.rope.dimension_count"),
            "hidden_act": "silu",
            "hidden_size": self.value("llama.embedding_length"),
            "intermediate_size": self.value("llama.feed_forward_length"),
            "max_position_embeddings": self.value("llama.context_length"),
            "mlp_bias": False,
            "num_attention_heads": self.value("llama.attention.head_count"),
            "num_hidden_layers": self.value("llama.block_count"),
            "num_key_value_heads": self.value("llama.attention.head_count_kv"),
            "pad_token_id": self.value("tokenizer.ggml.padding_token_id"),
            # GGUF stores a 32-bit float: 9.999999747378752e-06 means 1e-05.
            "rms_norm_eps": float(f"{self.value('llama.attention.layer_norm_rms_epsilon'):.6g}"),
            "rope_theta": self.value("llama.rope.freq_base"),
            "tie_word_embeddings": all(t.name != "output.weight" for t in self._reader.tensors),
            "vocab_size": self.value("llama.vocab_size"),
        }

    def tokenizer_json(self) -> str:
        """Return the content of `tokenizer.json`: byte-level BPE that splits off each digit.

        GGUF names the pre-tokenizer ("smollm") without its rules, which llama.cpp has: `\\p{N}`,
        then GPT-2's expression.
        """
        tokens, types = self.value("tokenizer.ggml.tokens"), self.value("tokenizer.ggml.token_type")
        merges = [tuple(merge.split(" ", 1)) for merge in self.value("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False)
                for token, token_type in zip(tokens, types, strict=True)
                if token_type == gguf.TokenType.CONTROL
            ]
        )
        return tokenizer.to_str(pretty=True) + "\n"

    def tokenizer_config(self) -> dict[str, Any]:
        """Return the content of `tokenizer_config.json`, without the chat template."""
        tokens = self.value("tokenizer.ggml.tokens")
        names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
        special = {
            f"{ours}_token": tokens[self.value(f"tokenizer.ggml.{theirs}_token_id")]
            for ours, theirs in names.items()
        }
        return special | {
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.value("llama.context_length"),
            # Not upstream's GPT2Tokenizer: in transformers 5 that class replaces the pre-tokenizer
            # in tokenizer.json by GPT-2's.
            "tokenizer_class": "PreTrainedTokenizerFast",
        }

    def tensors(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield every weight: Hugging Face's name, float32 of shape (out, in) or (size,)."""
        heads = {
            "attn_q.weight": self.value("llama.attention.head_count"),
            "attn_k.weight": self.value("llama.attention.head_count_kv"),
        }
        for tensor in self._reader.tensors:
            weight = gguf.dequantize(tensor.data, tensor.tensor_type)
            if head_count := heads.get(tensor.name.split(".", 2)[-1]):
                weight = rope_halves(weight, head_count)
            yield hugging_face_name(tensor.name), np.array(weight, dtype=np.float32)


def hugging_face_name(name: str) -> str:
    """Translate `blk.7.attn_q.weight` to `model.layers.7.self_attn.q_proj.weight`."""
    parts = name.removesuffix(".weight").split(".")
    if len(parts) == 1 and parts[0] in MODEL_TENSORS:
        return f"{MODEL_TENSORS[parts[0]]}.weight"
    if len(parts) == 3 and parts[2] in LAYER_TENSORS:
        return f"model.layers.{parts[1]}.{LAYER_TENSORS[parts[2]]}.weight"
    raise GgufError(f"tensor {name!r} is not part of a Llama model")


def rope_halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder the rows of Q or K, of shape (heads * head_dim, in), from llama.cpp's RoPE.

    llama.cpp rotates the pairs (0, 1), (2, 3) …, Hugging Face (0, d/2), (1, d/2 + 1) …. This is
    the inverse of `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)
