"""The memory that a step of the engine takes beside weights and KV cache, an estimate.

The engines measure it at their start; before that, these sizes say what a smaller batch saves.
"""

from handler.model.attention import Config, text_config

ELEMENT_BYTES = 2
LOGIT_BYTES = 4
LOGIT_COPIES = 2  # as they are, and sorted or scaled by the sampler


def token_bytes(hidden_size: int, mlp_width: int, gpus: int) -> int:
    """Return the activations of one batched token in a layer, on each GPU."""
    return ELEMENT_BYTES * (6 * hidden_size + 3 * mlp_width // gpus)


def sequence_bytes(vocab_size: int) -> int:
    """Return the logits of one sequence."""
    return LOGIT_COPIES * vocab_size * LOGIT_BYTES


def step_bytes(config: Config, gpus: int) -> tuple[int, int]:
    """Return the bytes of one batched token and of one sequence, from a config.json."""
    text = text_config(config)

    def size(name: str, default: int = 0) -> int:
        return value if isinstance(value := text.get(name), int) else default

    hidden = size("hidden_size")
    experts = size("num_experts_per_tok", 1) * size("moe_intermediate_size")
    width = max(size("intermediate_size", 4 * hidden), experts)
    return token_bytes(hidden, width, gpus), sequence_bytes(size("vocab_size"))
