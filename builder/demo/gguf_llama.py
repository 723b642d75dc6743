"""A Llama model inside one GGUF file: its configuration, vocabulary and weights.

Knows GGUF's key names and llama.cpp's tensor names and row order. It does *not* know where the
file came from or what will be written: names and shapes leave here as Hugging Face has them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from builder.errors import GgufError

# llama.cpp name -> Hugging Face name, for what stands outside the layers and inside each of them.
# https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/tensor_mapping.py
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INSIDE = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in id order, byte-level as GPT-2 spells them, and what makes text out of them."""

    tokens: list[str]
    special: list[str]
    merges: list[str]
    bos: str
    eos: str
    pad: str
    unknown: str
    chat_template: str


class LlamaGguf:
    """One open GGUF file; the weights stay on disk until `tensors` asks for them."""

    def __init__(self, path: Path) -> None:
        try:
            self._reader = gguf.GGUFReader(path)
        except ValueError as error:
            raise GgufError(f"{path} is not a GGUF file: {error}") from error
        self._path = path
        if self._value("general.architecture") != "llama":
            raise GgufError(f"{path} holds {self._value('general.architecture')!r}, not 'llama'")

    def config(self) -> dict[str, Any]:
        """What Hugging Face's `config.json` says of this model, without a dtype."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "bos_token_id": self._value("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self._value("tokenizer.ggml.eos_token_id"),
            "head_dim": self._value("llama.rope.dimension_count"),
            "hidden_act": "silu",
            "hidden_size": self._value("llama.embedding_length"),
            "intermediate_size": self._value("llama.feed_forward_length"),
            "max_position_embeddings": self._value("llama.context_length"),
            "mlp_bias": False,
            "num_attention_heads": self._value("llama.attention.head_count"),
            "num_hidden_layers": self._value("llama.block_count"),
            "num_key_value_heads": self._value("llama.attention.head_count_kv"),
            "pad_token_id": self._value("tokenizer.ggml.padding_token_id"),
            # GGUF holds it as a 32-bit float: 9.999999747378752e-06 means 1e-05.
            "rms_norm_eps": float(f"{self._value('llama.attention.layer_norm_rms_epsilon'):.6g}"),
            "rope_theta": self._value("llama.rope.freq_base"),
            "tie_word_embeddings": all(t.name != "output.weight" for t in self._reader.tensors),
            "vocab_size": self._value("llama.vocab_size"),
        }

    def vocabulary(self) -> Vocabulary:
        """The byte-level BPE vocabulary and the chat template."""
        tokens: list[str] = self._value("tokenizer.ggml.tokens")
        types: list[int] = self._value("tokenizer.ggml.token_type")
        control = gguf.TokenType.CONTROL
        return Vocabulary(
            tokens=tokens,
            special=[t for t, kind in zip(tokens, types, strict=True) if kind == control],
            merges=self._value("tokenizer.ggml.merges"),
            bos=tokens[self._value("tokenizer.ggml.bos_token_id")],
            eos=tokens[self._value("tokenizer.ggml.eos_token_id")],
            pad=tokens[self._value("tokenizer.ggml.padding_token_id")],
            unknown=tokens[self._value("tokenizer.ggml.unknown_token_id")],
            chat_template=self._value("tokenizer.chat_template"),
        )

    def tensors(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Every weight as (Hugging Face name, float32 of shape (out, in) or (size,))."""
        heads = self._value("llama.attention.head_count")
        kv_heads = self._value("llama.attention.head_count_kv")
        for tensor in self._reader.tensors:
            weight = gguf.dequantize(tensor.data, tensor.tensor_type)
            if tensor.name.endswith("attn_q.weight"):
                weight = rope_halves(weight, heads)
            elif tensor.name.endswith("attn_k.weight"):
                weight = rope_halves(weight, kv_heads)
            yield hugging_face_name(tensor.name), np.array(weight, dtype=np.float32)

    def _value(self, key: str) -> Any:
        field = self._reader.get_field(key)
        if field is None:
            raise GgufError(f"{self._path} has no {key}")
        return field.contents()


def hugging_face_name(name: str) -> str:
    """`blk.7.attn_q.weight` -> `model.layers.7.self_attn.q_proj.weight`."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    block, _, rest = name.removeprefix("blk.").partition(".")
    if rest not in INSIDE:
        raise GgufError(f"tensor {name!r} is not one of a Llama model's")
    return f"model.layers.{block}.{INSIDE[rest]}"


def rope_halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's row order of Q and K, of shape (heads * head_dim, in).

    llama.cpp rotates neighbours (0, 1), (2, 3) …; Hugging Face rotates the halves (0, d/2),
    (1, d/2 + 1) …. The converter interleaves the halves of each head (`LlamaModel.permute` in
    convert_hf_to_gguf.py); this is its inverse.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)
