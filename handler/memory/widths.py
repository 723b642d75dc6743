"""How wide the layers are that GPUs share, from a model's config.json; 0 where there is none."""

from handler.memory.layers import Config, number

USED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts", "moe_k")
EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
DENSE = ("intermediate_size", "ffn_hidden_size", "n_inner")


def experts_used(config: Config) -> int:
    """Return how many experts a token asks; where layers differ, the most."""
    lists = [value for name in USED if isinstance(value := config.get(name), list) and value]
    return max(lists[0]) if lists else number(config, *USED, default=1)


def expert_width(config: Config) -> int:
    """Return that of one expert."""
    if number(config, *EXPERTS, default=1) == 1:
        return 0
    return number(config, "moe_intermediate_size", "intermediate_size", default=0)


def shared_width(config: Config) -> int:
    """Return that of the experts which every token asks, all together."""
    several = number(config, "n_shared_experts", default=0) * expert_width(config)
    return number(config, "shared_expert_intermediate_size", default=several)


def dense_width(config: Config) -> int:
    """Return that of layers without experts."""
    dense = number(config, *DENSE, default=0)
    if not expert_width(config):
        return dense
    if not config.get("moe_intermediate_size"):  # that of experts goes by the usual name
        return number(config, "intermediate_size_mlp", default=0)
    has_some = config.get("first_k_dense_replace") or config.get("mlp_only_layers")
    return dense if has_some else 0
