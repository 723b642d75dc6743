"""How much a model keeps of each token: its KV cache, layer by layer, from its config.json.

Attention keeps a key and a value of every KV head; multi-head latent attention one vector for all
heads; a sliding window no more than the window; a recurrent layer a state that does not grow.
Written against the engines' own arithmetic: `vllm/v1/kv_cache_interface.py` and
`vllm/model_executor/layers/mamba/mamba_utils.py`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.errors import ModelUnavailable
from handler.memory.layers import Config, Kind, kinds, number, text_config
from handler.memory.states import state_bytes
from handler.memory.widths import (
    DENSE,
    EXPERTS,
    dense_width,
    expert_width,
    experts_used,
    shared_width,
)

CONTEXTS = (
    *("model_max_length", "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
    *("max_sequence_length", "max_seq_length", "max_target_positions"),
)
KV_HEADS = (
    *("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "num_attention_groups",
)
# It has sinks, or sees an image as a whole: vLLM's kernels for that are few.
ODD_ATTENTION = ("gpt_oss", "gemma3", "paligemma", "molmo2")
GEMMA_4_GLOBAL_HEAD = 512  # transformers' default
ELEMENT_BYTES = 2  # bf16 and fp16; the engines take one of them for a float32 checkpoint too


@dataclass(frozen=True)
class Layers:
    """Layers of one kind, and what each of them keeps of a sequence.

    Attributes:
        kind: of all of them.
        count: how many there are.
        heads: KV heads, which GPUs share; 1 where each GPU keeps all.
        head_elements: of one token in one head, key and value together.
        extra_bytes: of one token beside these, whatever the KV cache's type.
        window_tokens: the most that is kept, None for everything.
        state_bytes: kept however long the sequence is.
    """

    kind: str
    count: int
    heads: int = 1
    head_elements: int = 0
    extra_bytes: int = 0
    window_tokens: int | None = None
    state_bytes: int = 0

    def bytes_of(self, tokens: int, element_bytes: int, gpus: int, states: int) -> int:
        """Return what all of them keep of a sequence, with some states, on one of some GPUs."""
        kept = min(tokens, self.window_tokens or tokens)
        heads = -(-self.heads // gpus)
        of_token = heads * self.head_elements * element_bytes + self.extra_bytes
        return self.count * (kept * of_token + states * -(-self.state_bytes // gpus))


@dataclass(frozen=True)
class Architecture:
    """What a model's memory depends on.

    Attributes:
        layers: by kind.
        heads, kv_heads: of attention.
        hidden, intermediate: widths of a layer; of a mixture, that of the experts of one token.
        vocabulary: tokens that there are.
        context_tokens: of the longest context that the model was made for; 0 where it is not said.
        usual_tokens: of the one that an engine takes unless it is told another.
        experts, experts_used: of a mixture, in all and by one token; 1 of a dense model.
        attention_width: of attention's output, all heads together.
        key_width: of the key in one KV head, 0 where heads have none of their own (MLA).
        dense_width, shared_width, expert_width: of a layer without experts, of the experts that
            every token asks, and of one of the others; 0 where there is none.
        needs_fp8_for_fp8_cache: whether only GPUs that calculate in FP8 take a KV cache of 8 bits.
    """

    layers: tuple[Layers, ...]
    heads: int
    kv_heads: int
    hidden: int
    intermediate: int
    vocabulary: int
    context_tokens: int
    usual_tokens: int
    experts: int = 1
    experts_used: int = 1
    attention_width: int = 0
    key_width: int = 0
    dense_width: int = 0
    shared_width: int = 0
    expert_width: int = 0
    needs_fp8_for_fp8_cache: bool = False

    def kv_bytes(
        self, tokens: int, element_bytes: int = ELEMENT_BYTES, gpus: int = 1, states: int = 1
    ) -> int:
        """Return what one sequence of some tokens takes of the KV cache, on each of some GPUs.

        Args:
            tokens: of the sequence.
            element_bytes: of a number in the cache.
            gpus: that share the heads.
            states: of each recurrent layer; vLLM keeps two where prefixes are cached.
        """
        return sum(each.bytes_of(tokens, element_bytes, gpus, states) for each in self.layers)

    def splits(self, gpus: int) -> bool:
        """Whether each of some GPUs gets as many heads."""
        return splits(gpus, self.heads, self.kv_heads)

    def kv_bytes_per_token(self, element_bytes: int = ELEMENT_BYTES, at: int = 1) -> int:
        """Return what the next token takes, over all GPUs, when there are so many already."""
        return self.kv_bytes(at + 1, element_bytes) - self.kv_bytes(at, element_bytes)


def splits(gpus: int, heads: int, kv_heads: int) -> bool:
    """Whether each of some GPUs gets as many heads; those for keys and values may be copied."""
    few, many = sorted((kv_heads, gpus))
    return heads % gpus == 0 and many % few == 0


def architecture(config: Mapping[str, Any]) -> Architecture:
    """Read a config.json.

    Raises:
        ModelUnavailable: it does not say what is needed, or something that is not known here.
    """
    try:
        return _read(config)
    except (AttributeError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelUnavailable(f"config.json has a value that makes no model ({error})") from error


def _read(config: Mapping[str, Any]) -> Architecture:
    text = text_config(config)
    counted = Counter(kinds(text))
    both = counted.pop("both", 0)
    if both:
        counted.update({"full": both, "state": both})
    counted.pop("none", None)
    layers = tuple(_layers(text, kind, count) for kind, count in sorted(counted.items()))
    heads = number(text, "num_attention_heads", "n_head", "num_heads", "n_heads", default=1)
    hidden = number(text, "hidden_size", "n_embd", "d_model")
    used = experts_used(text)
    width = number(text, *DENSE, default=4 * hidden)
    head = _head(text, heads)
    value = number(text, "v_head_dim", default=head) or head
    latent = _is_latent(text)
    return Architecture(
        layers=layers,
        heads=heads,
        kv_heads=_kv_heads(text, heads),
        hidden=hidden,
        intermediate=max(width, used * number(text, "moe_intermediate_size", default=0)),
        vocabulary=number(text, "vocab_size", default=0),
        context_tokens=_context_tokens(text),
        usual_tokens=_usual_tokens(text),
        experts=number(text, *EXPERTS, default=1),
        experts_used=used,
        attention_width=heads * value,
        key_width=0 if latent else head,
        dense_width=dense_width(text),
        shared_width=shared_width(text),
        expert_width=expert_width(text),
        needs_fp8_for_fp8_cache=latent or config.get("model_type") in ODD_ATTENTION,
    )


def _usual_tokens(config: Config) -> int:
    """Return the context without LongRoPE, which vLLM uses only where it is asked to."""
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    kind = (rope.get("rope_type") or rope.get("type")) if isinstance(rope, dict) else None
    own = _context_tokens(config)
    if kind not in ("longrope", "su"):
        return own
    return number({**dict(rope or {}), **config}, "original_max_position_embeddings", default=own)


def _context_tokens(config: Config) -> int:
    """Return the longest context, which two ways of stretching RoPE leave out of their number."""
    own = number(config, *CONTEXTS, default=0)
    stretched = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(stretched, dict) or str(config.get("model_type")).startswith("gemma3"):
        return own
    kind = stretched.get("rope_type") or stretched.get("type")
    return own * number(stretched, "factor", default=1) if kind in ("linear", "dynamic") else own


def _layers(config: Config, kind: Kind, count: int) -> Layers:
    if kind == "state":
        return Layers("state", count, state_bytes=state_bytes(config))
    window = {
        "sliding": lambda: number(config, "sliding_window"),
        "chunked": lambda: number(config, "attention_chunk_size"),
    }
    kept = window[kind]() if kind in window else None
    if kept is not None and kept >= (_context_tokens(config) or kept + 1):
        kept = None  # it sees everything
    if _is_latent(config):
        # One vector for all heads, of which every GPU keeps a copy. A sparse model's indexer keeps
        # a key in 8 bits with a scale of 4 bytes for each 128 of them.
        width = number(config, "kv_lora_rank") + number(config, "qk_rope_head_dim")
        indexed = number(config, "index_head_dim", default=0)
        return Layers("MLA", count, 1, width, indexed + indexed // 128 * 4, kept)
    heads = number(config, "num_attention_heads", "n_head", "num_heads", "n_heads")
    kv_heads, head = _kv_heads(config, heads), _head(config, heads)
    if kind == "full":
        kv_heads, head = _global(config, kv_heads, head)
    value = number(config, "v_head_dim", default=head) or head
    return Layers(kind, count, kv_heads, head + value, 0, kept)


def _global(config: Config, kv_heads: int, head: int) -> tuple[int, int]:
    """Return the heads of layers that see everything, where they are others than in a window.

    Gemma 4's are; transformers 5.17 writes them layer by layer.
    """
    if str(config.get("model_type")).startswith("gemma4"):
        head = GEMMA_4_GLOBAL_HEAD
    if config.get("attention_k_eq_v", True):
        kv_heads = number(config, "num_global_key_value_heads", default=kv_heads)
    head = number(config, "global_head_dim", default=head)
    by_layer = config.get("per_layer_config")
    for own in by_layer.values() if isinstance(by_layer, dict) else ():
        kv_heads = number(own, "num_key_value_heads", default=kv_heads)
        head = number(own, "head_dim", default=head)
    return kv_heads, head


def _is_latent(config: Config) -> bool:
    """Whether its attention is multi-head latent, as an engine runs it; MiniCPM's is unfolded."""
    return bool(config.get("kv_lora_rank")) and not str(config.get("model_type")).startswith(
        "minicpm"
    )


def _kv_heads(config: Config, heads: int) -> int:
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1  # whatever Falcon's other fields say
    return number(config, *KV_HEADS, default=heads)


def _head(config: Config, heads: int) -> int:
    width = number(config, "hidden_size", "n_embd", "d_model")
    return number(config, "head_dim", "attention_head_dim", default=width // heads)
