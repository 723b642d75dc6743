"""What a recurrent layer keeps of a sequence: the last inputs of its convolution, and its state.

The shapes are those of `vllm/model_executor/layers/mamba/mamba_utils.py`, on one GPU.
"""

from handler.memory.layers import Config, number

NARROW_BYTES = 2
WIDE_BYTES = 4
HEADS = ("mamba_d_head", "mamba_head_dim", "mamba_headdim", "head_dim")


def state_bytes(config: Config) -> int:
    """Return what one recurrent layer keeps, however long the sequence is.

    Raises:
        ModelUnavailable: the configuration does not say what is needed.
    """
    dtype = config.get("mamba_ssm_dtype") or config.get("mamba_ssm_cache_dtype")
    convolution, state = _elements(config)
    is_wide = dtype == "float32" or _delta_attention(config) is not None
    return convolution * NARROW_BYTES + state * (WIDE_BYTES if is_wide else NARROW_BYTES)


def _elements(config: Config) -> tuple[int, int]:
    """Return the elements of the convolution's inputs and of the state."""
    if (found := _delta_attention(config)) is not None:
        return found
    if config.get("linear_num_value_heads"):
        return _delta_net(config)
    if config.get("attn_type_list") or str(config.get("model_type")).startswith("minimax"):
        # Lightning attention.
        heads = number(config, "num_attention_heads")
        head = number(config, "head_dim", default=number(config, "hidden_size") // heads)
        return 0, heads * head * head
    if config.get("conv_L_cache"):  # convolutions and nothing else
        kept = number(config, "conv_L_cache") - 1
        return kept * number(config, "conv_dim", "hidden_size"), 0
    return _mamba(config)


def _delta_net(config: Config) -> tuple[int, int]:
    """Gated delta net, of Qwen3-Next and its kin."""
    key = number(config, "linear_key_head_dim")
    keys = number(config, "linear_num_key_heads") * key
    values = number(config, "linear_num_value_heads") * number(config, "linear_value_head_dim")
    kept = number(config, "linear_conv_kernel_dim") - 1
    return kept * (2 * keys + values), values * key


def _delta_attention(config: Config) -> tuple[int, int] | None:
    """Kimi delta attention, whose state is always float32; None where it is something else."""
    linear = config.get("linear_attn_config")
    if not isinstance(linear, dict):
        linear = config if config.get("linear_num_heads") else None
    if linear is None:
        return None
    heads = number(linear, "num_heads", "linear_num_heads")
    head = number(linear, "linear_head_dim", "head_dim")
    names = ("short_conv_kernel_size", "linear_conv_kernel_dim")
    kept = number(linear, *names, default=4) - 1
    return kept * 3 * heads * head, heads * head * head


def _mamba(config: Config) -> tuple[int, int]:
    """Mamba 2, which has heads, or the first one."""
    size = number(config, "mamba_d_state", "ssm_state_size", "state_size")
    kept = number(config, "mamba_d_conv", "conv_kernel", "d_conv") - 1
    names = ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
    heads = number(config, *names, default=0)
    head = number(config, *HEADS, default=0)
    if not heads or not head:
        inner = number(config, "mamba_expand", "expand", default=2)
        inner *= number(config, "hidden_size", "d_model")
        if config.get("model_type") in ("mamba", "falcon_mamba"):
            inner = number(config, "intermediate_size", "d_inner", default=inner)
        return kept * inner, inner * size
    groups = number(config, "mamba_n_groups", "n_groups", "mamba_ngroups", default=1)
    return kept * (heads * head + 2 * groups * size), heads * head * size
