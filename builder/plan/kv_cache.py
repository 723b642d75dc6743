"""The KV cache of a sequence, layer by layer, from a model's config.json.

Attention keeps a key and a value of every KV head; multi-head latent attention (MLA) one vector for
all heads; a sliding window no more than the window; a recurrent layer a state of fixed size.
Follows the engines' own arithmetic in `vllm/v1/kv_cache_interface.py`.
"""

from collections import Counter
from dataclasses import dataclass

from builder.plan.layers import LayerKind, int_field, layer_kinds
from builder.plan.recurrent_state import recurrent_state_bytes
from handler.model.attention import Config

HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
KV_HEADS = """
    num_key_value_heads num_kv_heads n_head_kv multi_query_group_num num_attention_groups
""".split()
HIDDEN_SIZE = ("hidden_size", "n_embd", "d_model")
GEMMA_4_GLOBAL_HEAD_DIM = 512  # transformers' default
WINDOW_FIELDS = {"sliding": "sliding_window", "chunked": "attention_chunk_size"}


@dataclass(frozen=True)
class LayerGroup:
    """Layers of one kind, and what each of them keeps of a sequence.

    Attributes:
        kind: a LayerKind, or MLA.
        count: layers.
        kv_heads: heads that GPUs share; 1 where each GPU keeps everything.
        head_elements: of one token in one head, key and value together.
        extra_token_bytes: of one token, independent of the KV cache's data type.
        window_tokens: tokens that are kept at most, None for all.
        state_bytes: of a sequence of any length.
    """

    kind: str
    count: int
    kv_heads: int = 1
    head_elements: int = 0
    extra_token_bytes: int = 0
    window_tokens: int | None = None
    state_bytes: int = 0

    def sequence_bytes(self, tokens: int, element_bytes: int, gpus: int, states: int) -> int:
        """Return the bytes on each GPU; `states` are the recurrent states kept of a sequence."""
        kept = min(tokens, self.window_tokens or tokens)
        heads = -(-self.kv_heads // gpus)
        token_bytes = heads * self.head_elements * element_bytes + self.extra_token_bytes
        return self.count * (kept * token_bytes + states * -(-self.state_bytes // gpus))


def layer_groups(config: Config, context_tokens: int) -> tuple[LayerGroup, ...]:
    """Return the layers of a language model that keep something, by kind.

    Args:
        config: of the language model.
        context_tokens: the model's longest context, 0 where it is not known.

    Raises:
        ModelUnavailable: the layers are of a kind that is not known here.
    """
    counts = Counter(layer_kinds(config))
    if hybrid := counts.pop("hybrid", 0):
        counts.update({"full": hybrid, "recurrent": hybrid})
    counts.pop("none", None)
    return tuple(
        _layer_group(config, kind, count, context_tokens) for kind, count in sorted(counts.items())
    )


def uses_mla(config: Config) -> bool:
    """Whether engines run its attention as MLA; MiniCPM's they run as ordinary attention."""
    is_minicpm = str(config.get("model_type")).startswith("minicpm")
    return bool(config.get("kv_lora_rank")) and not is_minicpm


def kv_head_count(config: Config, heads: int) -> int:
    """Return the number of KV heads, in the words of any family."""
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1  # Falcon, whatever its other fields say
    return int_field(config, *KV_HEADS, default=heads)


def key_head_dim(config: Config, heads: int) -> int:
    """Return the elements of a key in one head."""
    default = int_field(config, *HIDDEN_SIZE) // heads
    return int_field(config, "head_dim", "attention_head_dim", default=default)


def value_head_dim(config: Config, heads: int) -> int:
    """Return the elements of a value in one head."""
    key = key_head_dim(config, heads)
    return int_field(config, "v_head_dim", default=key) or key


def _layer_group(config: Config, kind: LayerKind, count: int, context_tokens: int) -> LayerGroup:
    if kind == "recurrent":
        return LayerGroup("recurrent", count, state_bytes=recurrent_state_bytes(config))
    window = int_field(config, WINDOW_FIELDS[kind]) if kind in WINDOW_FIELDS else None
    if window is not None and context_tokens and window >= context_tokens:
        window = None
    if uses_mla(config):
        latent = int_field(config, "kv_lora_rank") + int_field(config, "qk_rope_head_dim")
        # A sparse model's indexer keeps an 8-bit key, with a scale of 4 bytes per 128 elements.
        index = int_field(config, "index_head_dim", default=0)
        index_bytes = index + index // 128 * 4
        return LayerGroup("MLA", count, 1, latent, index_bytes, window)
    heads = int_field(config, *HEADS)
    kv_heads, key = kv_head_count(config, heads), key_head_dim(config, heads)
    if kind == "full":
        kv_heads, key = _full_attention_heads(config, kv_heads, key)
    value = int_field(config, "v_head_dim", default=key) or key
    return LayerGroup(kind, count, kv_heads, key + value, 0, window)


def _full_attention_heads(config: Config, kv_heads: int, head_dim: int) -> tuple[int, int]:
    """Return KV heads and their dimension where full-attention layers have their own (Gemma 4).

    transformers 5.17 writes them layer by layer.
    """
    if str(config.get("model_type")).startswith("gemma4"):
        head_dim = GEMMA_4_GLOBAL_HEAD_DIM
    if config.get("attention_k_eq_v", True):
        kv_heads = int_field(config, "num_global_key_value_heads", default=kv_heads)
    head_dim = int_field(config, "global_head_dim", default=head_dim)
    layers = config.get("per_layer_config")
    for layer in layers.values() if isinstance(layers, dict) else ():
        kv_heads = int_field(layer, "num_key_value_heads", default=kv_heads)
        head_dim = int_field(layer, "head_dim", default=head_dim)
    return kv_heads, head_dim
