"""Size of the state that a recurrent layer keeps of each sequence, however long it is.

The state has two parts: the last inputs of the layer's convolution, and the recurrent state itself.
Shapes follow `vllm/model_executor/layers/mamba/mamba_utils.py`, on one GPU.
"""

from builder.plan.layers import int_field
from handler.model.attention import Config

HALF_BYTES = 2
FLOAT_BYTES = 4
MAMBA_HEAD_COUNT = ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
MAMBA_HEAD_DIM = ("mamba_d_head", "mamba_head_dim", "mamba_headdim", "head_dim")


def recurrent_state_bytes(config: Config) -> int:
    """Return the bytes that one layer keeps of one sequence.

    Raises:
        ModelUnavailable: the config lacks a field.
    """
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
    heads = int_field(config, "num_attention_heads")
    default = int_field(config, "hidden_size") // heads
    head_dim = int_field(config, "head_dim", default=default)
    return 0, heads * head_dim * head_dim


def _mamba(config: Config) -> tuple[int, int]:
    """Mamba 2, which has heads, or Mamba 1."""
    state = int_field(config, "mamba_d_state", "ssm_state_size", "state_size")
    inputs = int_field(config, "mamba_d_conv", "conv_kernel", "d_conv") - 1
    heads = int_field(config, *MAMBA_HEAD_COUNT, default=0)
    head_dim = int_field(config, *MAMBA_HEAD_DIM, default=0)
    if heads and head_dim:
        groups = int_field(config, "mamba_n_groups", "n_groups", "mamba_ngroups", default=1)
        return inputs * (heads * head_dim + 2 * groups * state), heads * head_dim * state
    expand = int_field(config, "mamba_expand", "expand", default=2)
    width = expand * int_field(config, "hidden_size", "d_model")
    if config.get("model_type") in ("mamba", "falcon_mamba"):
        width = int_field(config, "intermediate_size", "d_inner", default=width)
    return inputs * width, width * state
