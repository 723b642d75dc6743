"""The KV cache of a sequence, layer by layer, from a model's config.json.

Attention keeps a key and a value of every KV head; multi-head latent attention (MLA) one vector for
all heads; a sliding window no more than the window; a recurrent layer the last inputs of its
convolution and a state of fixed size. Follows vLLM's arithmetic in `v1/kv_cache_interface.py` and
`model_executor/layers/mamba/mamba_utils.py`.
"""

from collections import Counter
from dataclasses import dataclass

from builder.plan.layers import LayerKind, int_field, layer_kinds
from handler.model.attention import Config

HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
KV_HEADS = """
    num_key_value_heads num_kv_heads n_head_kv multi_query_group_num num_attention_groups
""".split()
HIDDEN_SIZE = ("hidden_size", "n_embd", "d_model")
GEMMA_4_GLOBAL_HEAD_DIM = 512  # transformers' default
WINDOW_FIELDS = {"sliding": "sliding_window", "chunked": "attention_chunk_size"}
MAMBA_HEADS = ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
MAMBA_HEAD_DIM = ("mamba_d_head", "mamba_head_dim", "mamba_headdim", "head_dim")
HALF_BYTES = 2
FLOAT_BYTES = 4


@dataclass(frozen=True)
class LayerGroup:
    """Layers of one kind, and what each of them keeps of a sequence.

    Attributes:
        kind: a LayerKind, or MLA.
        kv_heads: shared by GPUs; 1 where each GPU keeps everything.
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
    """Return the layers that keep something, by kind; `context_tokens` is the model's own or 0.

    Raises:
        ModelUnavailable: the kind of a layer is unknown.
    """
    counts = Counter(layer_kinds(config))
    if hybrid := counts.pop("hybrid", 0):
        counts.update({"full": hybrid, "recurrent": hybrid})
    counts.pop("none", None)
    return tuple(
        _layer_group(config, kind, count, context_tokens) for kind, count in sorted(counts.items())
    )


def uses_mla(config: Config) -> bool:
    """Whether engines run the attention as MLA; they run MiniCPM's as ordinary attention."""
    is_minicpm = str(config.get("model_type")).startswith("minicpm")
    return bool(config.get("kv_lora_rank")) and not is_minicpm


def kv_head_count(config: Config, heads: int) -> int:
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1  # Falcon, whatever its other fields say
    return int_field(config, *KV_HEADS, default=heads)


def key_head_dim(config: Config, heads: int) -> int:
    default = int_field(config, *HIDDEN_SIZE) // heads
    return int_field(config, "head_dim", "attention_head_dim", default=default)


def value_head_dim(config: Config, key_dim: int) -> int:
    return int_field(config, "v_head_dim", default=key_dim) or key_dim


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
        return LayerGroup("MLA", count, 1, latent, index_bytes, window_tokens=window)
    heads = int_field(config, *HEADS)
    kv_heads, key_dim = kv_head_count(config, heads), key_head_dim(config, heads)
    if kind == "full":
        kv_heads, key_dim = _full_attention_heads(config, kv_heads, key_dim)
    elements = key_dim + value_head_dim(config, key_dim)
    return LayerGroup(kind, count, kv_heads, elements, window_tokens=window)


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


def recurrent_state_bytes(config: Config) -> int:
    """Return what a recurrent layer keeps of a sequence of any length, on one GPU."""
    dtype = config.get("mamba_ssm_dtype") or config.get("mamba_ssm_cache_dtype")
    kimi = _kimi_delta_attention(config)
    convolution, state = kimi or _state_elements(config)
    is_float = dtype == "float32" or kimi is not None
    return convolution * HALF_BYTES + state * (FLOAT_BYTES if is_float else HALF_BYTES)


def _state_elements(config: Config) -> tuple[int, int]:
    """Return the elements of the convolution's inputs and of the state."""
    if config.get("linear_num_value_heads"):
        return _gated_delta_net(config)
    if config.get("attn_type_list") or str(config.get("model_type")).startswith("minimax"):
        return _lightning_attention(config)
    if config.get("conv_L_cache"):  # LFM2: a convolution only
        inputs = int_field(config, "conv_L_cache") - 1
        return inputs * int_field(config, "conv_dim", "hidden_size"), 0
    return _mamba(config)


def _gated_delta_net(config: Config) -> tuple[int, int]:
    """Qwen3-Next and its relatives."""
    key_dim = int_field(config, "linear_key_head_dim")
    keys = int_field(config, "linear_num_key_heads") * key_dim
    value_heads = int_field(config, "linear_num_value_heads")
    values = value_heads * int_field(config, "linear_value_head_dim")
    inputs = int_field(config, "linear_conv_kernel_dim") - 1
    return inputs * (2 * keys + values), values * key_dim


def _kimi_delta_attention(config: Config) -> tuple[int, int] | None:
    """Kimi Linear, whose state is always float32; None for another kind of layer."""
    linear = config.get("linear_attn_config")
    if not isinstance(linear, dict):
        linear = config if config.get("linear_num_heads") else None
    if linear is None:
        return None
    heads = int_field(linear, "num_heads", "linear_num_heads")
    head_dim = int_field(linear, "linear_head_dim", "head_dim")
    kernel = int_field(linear, "short_conv_kernel_size", "linear_conv_kernel_dim", default=4)
    return (kernel - 1) * 3 * heads * head_dim, heads * head_dim * head_dim


def _lightning_attention(config: Config) -> tuple[int, int]:
    """MiniMax."""
    heads = int_field(config, *HEADS)
    return 0, heads * key_head_dim(config, heads) ** 2


def _mamba(config: Config) -> tuple[int, int]:
    """Mamba 2, which has heads, or Mamba 1."""
    state = int_field(config, "mamba_d_state", "ssm_state_size", "state_size")
    inputs = int_field(config, "mamba_d_conv", "conv_kernel", "d_conv") - 1
    heads = int_field(config, *MAMBA_HEADS, default=0)
    head_dim = int_field(config, *MAMBA_HEAD_DIM, default=0)
    if heads and head_dim:
        groups = int_field(config, "mamba_n_groups", "n_groups", "mamba_ngroups", default=1)
        return inputs * (heads * head_dim + 2 * groups * state), heads * head_dim * state
    expand = int_field(config, "mamba_expand", "expand", default=2)
    width = expand * int_field(config, "hidden_size", "d_model")
    if config.get("model_type") in ("mamba", "falcon_mamba"):
        width = int_field(config, "intermediate_size", "d_inner", default=width)
    return inputs * width, width * state
