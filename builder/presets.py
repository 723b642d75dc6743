"""Models with the cards that they fit and the settings that suit both.

Each is a choice in the Runpod Hub's form (`builder/listing.py` writes it). The names of GPU pools
are Runpod's. An FP8 checkpoint runs on every card from Ampere on, but only Ada, Hopper and newer
ones calculate in FP8; the older ones widen the weights to 16 bits as they read them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TOOLS = {"ENABLE_AUTO_TOOL_CHOICE": "true"}


@dataclass(frozen=True)
class Preset:
    """One model on one kind of card.

    Attributes:
        name: what the form shows.
        model: the repository on the hub.
        engine: the image that it needs, vllm or sglang.
        gpu: the cards, in words.
        gpu_pools: the same in Runpod's names.
        gpu_count: cards of one worker.
        environment: settings beside MODEL_NAME.
    """

    name: str
    model: str
    gpu: str
    gpu_pools: tuple[str, ...]
    environment: Mapping[str, str]
    engine: str = "vllm"
    gpu_count: int = 1

    def variables(self) -> dict[str, str]:
        """Return everything that a worker with this preset has in its environment."""
        return {"MODEL_NAME": self.model, **self.environment}


PRESETS = (
    Preset(
        "8B FP8: Qwen3 8B",
        "Qwen/Qwen3-8B-FP8",
        "one card of 24 to 48 GB",
        ("ADA_24", "ADA_32_PRO", "ADA_48_PRO"),
        {
            "MAX_MODEL_LEN": "16384",
            "MAX_NUM_SEQS": "64",
            "TOOL_CALL_PARSER": "hermes",
            "REASONING_PARSER": "qwen3",
            **TOOLS,
        },
    ),
    Preset(
        "Small AWQ: Qwen2.5 7B",
        "Qwen/Qwen2.5-7B-Instruct-AWQ",
        "one card of 16 GB",
        ("AMPERE_16", "AMPERE_24"),
        {
            "MAX_MODEL_LEN": "8192",
            "MAX_NUM_SEQS": "32",
            "TOOL_CALL_PARSER": "hermes",
            **TOOLS,
        },
    ),
    Preset(
        "70B AWQ: Llama 3.3 70B",
        "casperhansen/llama-3.3-70b-instruct-awq",
        "two cards of 48 GB",
        ("ADA_48_PRO", "AMPERE_48"),
        {
            "TENSOR_PARALLEL_SIZE": "2",
            "MAX_MODEL_LEN": "16384",
            "MAX_NUM_SEQS": "48",
            "TOOL_CALL_PARSER": "llama3_json",
            **TOOLS,
        },
        gpu_count=2,
    ),
    Preset(
        "70B FP8: Llama 3.3 70B",
        "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic",
        "one H200",
        ("HOPPER_141",),
        {
            "MAX_MODEL_LEN": "32768",
            "MAX_NUM_SEQS": "128",
            "KV_CACHE_DTYPE": "fp8",
            "TOOL_CALL_PARSER": "llama3_json",
            **TOOLS,
        },
    ),
    Preset(
        "Coder with n-gram speculation: Qwen2.5 Coder 14B AWQ",
        "Qwen/Qwen2.5-Coder-14B-Instruct-AWQ",
        "one card of 24 GB",
        ("ADA_24", "AMPERE_24"),
        {
            "MAX_MODEL_LEN": "16384",
            "MAX_NUM_SEQS": "32",
            "SPECULATIVE_METHOD": "ngram",
        },
    ),
    Preset(
        "Agents on SGLang: Qwen3 14B FP8",
        "Qwen/Qwen3-14B-FP8",
        "one card of 48 GB",
        ("ADA_48_PRO",),
        {
            "MAX_MODEL_LEN": "32768",
            "TOOL_CALL_PARSER": "hermes",
            "REASONING_PARSER": "qwen3",
        },
        engine="sglang",
    ),
)
