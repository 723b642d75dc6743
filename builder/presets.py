"""Presets: a model, the GPUs that it fits, and the settings for both.

`hub_listing.py` writes them into the Runpod Hub's form; `deploy` takes one by name. The names of
GPU pools are Runpod's. An FP8 checkpoint runs on every GPU from Ampere on, but only Ada, Hopper and
newer ones compute in FP8; the older ones widen the weights to 16 bits as they read them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from builder.errors import InvalidArgument

TOOLS = {"ENABLE_AUTO_TOOL_CHOICE": "true"}


@dataclass(frozen=True)
class Preset:
    """One model on one kind of GPU.

    Attributes:
        name: the label in the form.
        model: the repository on the hub.
        gpu: the GPUs in words.
        gpu_pools: the same GPUs as Runpod's pools.
        environment: settings besides MODEL_NAME.
        engine: the image that it needs, vllm or sglang.
        gpu_count: GPUs per worker.
    """

    name: str
    model: str
    gpu: str
    gpu_pools: tuple[str, ...]
    environment: Mapping[str, str]
    engine: str = "vllm"
    gpu_count: int = 1

    def variables(self) -> dict[str, str]:
        """Return the environment of a worker with this preset."""
        return {"MODEL_NAME": self.model, **self.environment}


PRESETS = (
    Preset(
        "8B FP8: Qwen3 8B",
        "Qwen/Qwen3-8B-FP8",
        "one GPU of 24 to 48 GB",
        ("ADA_24", "ADA_32_PRO", "ADA_48_PRO"),
        {
            "MAX_MODEL_LEN": "auto",
            "MAX_NUM_SEQS": "64",
            "TOOL_CALL_PARSER": "hermes",
            "REASONING_PARSER": "qwen3",
            **TOOLS,
        },
    ),
    Preset(
        "Small AWQ: Qwen2.5 7B",
        "Qwen/Qwen2.5-7B-Instruct-AWQ",
        "one GPU of 16 GB",
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
        "two GPUs of 48 GB",
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
        "one GPU of 24 GB",
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
        "one GPU of 48 GB",
        ("ADA_48_PRO",),
        {
            "MAX_MODEL_LEN": "32768",
            "TOOL_CALL_PARSER": "hermes",
            "REASONING_PARSER": "qwen3",
        },
        engine="sglang",
    ),
)


def find_preset(word: str) -> Preset:
    """Return a preset by the first words of its name, or by its model.

    Raises:
        InvalidArgument: no preset has that name.
    """
    for preset in PRESETS:
        if word in (preset_slug(preset), model_slug(preset.model), preset.model):
            return preset
    names = ", ".join(preset_slug(preset) for preset in PRESETS)
    raise InvalidArgument(f"There is no preset {word!r}: must be one of {names}.")


def preset_slug(preset: Preset) -> str:
    return _slug(preset.name.partition(":")[0])


def model_slug(model: str) -> str:
    return _slug(model.rstrip("/").rpartition("/")[2])


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
