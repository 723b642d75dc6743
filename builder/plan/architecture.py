"""The sizes in a model's config.json that determine its memory and speed."""

from bisect import bisect_right
from dataclasses import dataclass

from builder.plan.kv_cache import (
    HEADS,
    HIDDEN_SIZE,
    LayerGroup,
    key_head_dim,
    kv_head_count,
    layer_groups,
    uses_mla,
    value_head_dim,
)
from builder.plan.layers import int_field, text_config_with_defaults
from handler.errors import ModelUnavailable
from handler.model.attention import Config

CONTEXT_TOKENS = """
    model_max_length max_position_embeddings n_positions max_seq_len seq_length max_sequence_length
    max_seq_length max_target_positions
""".split()
EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
EXPERTS_PER_TOKEN = "num_experts_per_tok num_experts_per_token moe_topk top_k_experts moe_k".split()
MLP_WIDTH = ("intermediate_size", "ffn_hidden_size", "n_inner")
# Attention with sinks, or over whole images: few of vLLM's kernels support it.
SPECIAL_ATTENTION_MODELS = ("gpt_oss", "gemma3", "paligemma", "molmo2")
BF16_BYTES = 2  # bf16 and fp16; engines run a float32 checkpoint in one of them too
ROUND_TOKENS = 256
UNBOUNDED_TOKENS = 1 << 24


@dataclass(frozen=True)
class Architecture:
    """A model's sizes; a width is 0 where the model has no such layer.

    Attributes:
        layers: those with a KV cache or a state, by kind.
        mlp_width: of the widest layer; in a mixture of experts, of all experts of one token.
        vocab_size: 0 where it is not given.
        context_tokens: the longest context that the model was made for, 0 where it is not given.
        experts, experts_per_token: 1 in a dense model.
        attention_width: of attention's output, all heads together.
        key_head_dim: 0 with MLA, whose heads have no keys of their own.
        dense_width, shared_expert_width, expert_width: of the MLP of layers without experts, of all
            shared experts together, and of one routed expert.
        needs_fp8_for_fp8_cache: whether an FP8 KV cache needs GPUs that calculate in FP8.
    """

    layers: tuple[LayerGroup, ...]
    heads: int
    kv_heads: int
    hidden_size: int
    mlp_width: int
    vocab_size: int
    context_tokens: int
    experts: int
    experts_per_token: int
    attention_width: int
    key_head_dim: int
    dense_width: int
    shared_expert_width: int
    expert_width: int
    needs_fp8_for_fp8_cache: bool

    def kv_bytes(
        self, tokens: int, element_bytes: int = BF16_BYTES, gpus: int = 1, states: int = 1
    ) -> int:
        """Return the KV cache of one sequence on each GPU, with the states of recurrent layers."""
        return sum(
            group.sequence_bytes(tokens, element_bytes, gpus, states) for group in self.layers
        )

    def kv_bytes_per_token(self, element_bytes: int = BF16_BYTES, at: int = 1) -> int:
        """Return the bytes that one more token takes on all GPUs together, after `at` tokens."""
        return self.kv_bytes(at + 1, element_bytes) - self.kv_bytes(at, element_bytes)

    def max_tokens(self, available_bytes: int, element_bytes: int, gpus: int) -> int:
        """Return the longest sequence that fits on each GPU, rounded down."""
        lengths = range(1, UNBOUNDED_TOKENS)
        tokens = bisect_right(
            lengths, available_bytes, key=lambda length: self.kv_bytes(length, element_bytes, gpus)
        )
        return tokens // ROUND_TOKENS * ROUND_TOKENS


def parse_architecture(config: Config) -> Architecture:
    """Parse a config.json.

    Raises:
        ModelUnavailable: a field is missing or invalid, or the kind of a layer is unknown.
    """
    try:
        return _parse(config)
    except (AttributeError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelUnavailable(f"config.json has an invalid value ({error})") from error


def _parse(config: Config) -> Architecture:
    text = text_config_with_defaults(config)
    context_tokens = _context_tokens(text)
    layers = layer_groups(text, context_tokens)
    heads = int_field(text, *HEADS, default=1)
    key_dim = key_head_dim(text, heads)
    hidden_size = int_field(text, *HIDDEN_SIZE)
    experts, used = int_field(text, *EXPERTS, default=1), _experts_per_token(text)
    is_mla = uses_mla(text)
    expert_width = 0
    if experts != 1:
        expert_width = int_field(text, "moe_intermediate_size", "intermediate_size", default=0)
    shared = int_field(text, "n_shared_experts", default=0) * expert_width
    return Architecture(
        layers=layers,
        heads=heads,
        kv_heads=kv_head_count(text, heads),
        hidden_size=hidden_size,
        mlp_width=max(
            int_field(text, *MLP_WIDTH, default=4 * hidden_size),
            used * int_field(text, "moe_intermediate_size", default=0),
        ),
        vocab_size=int_field(text, "vocab_size", default=0),
        context_tokens=context_tokens,
        experts=experts,
        experts_per_token=used,
        attention_width=heads * value_head_dim(text, key_dim),
        key_head_dim=0 if is_mla else key_dim,
        dense_width=_dense_width(text, expert_width),
        shared_expert_width=int_field(text, "shared_expert_intermediate_size", default=shared),
        expert_width=expert_width,
        needs_fp8_for_fp8_cache=is_mla or config.get("model_type") in SPECIAL_ATTENTION_MODELS,
    )


def _context_tokens(config: Config) -> int:
    """Return the longest context, with the factor of linear or dynamic RoPE scaling."""
    own = int_field(config, *CONTEXT_TOKENS, default=0)
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, dict) or str(config.get("model_type")).startswith("gemma3"):
        return own
    rope_type = rope.get("rope_type") or rope.get("type")
    return own * int_field(rope, "factor", default=1) if rope_type in ("linear", "dynamic") else own


def _experts_per_token(config: Config) -> int:
    """Return the experts that a token uses; the largest number where layers differ."""
    for name in EXPERTS_PER_TOKEN:
        if isinstance(by_layer := config.get(name), list) and by_layer:
            return max(int(number) for number in by_layer)
    return int_field(config, *EXPERTS_PER_TOKEN, default=1)


def _dense_width(config: Config, expert_width: int) -> int:
    dense = int_field(config, *MLP_WIDTH, default=0)
    if not expert_width:
        return dense
    if not config.get("moe_intermediate_size"):  # intermediate_size is the experts'
        return int_field(config, "intermediate_size_mlp", default=0)
    has_dense_layers = config.get("first_k_dense_replace") or config.get("mlp_only_layers")
    return dense if has_dense_layers else 0
