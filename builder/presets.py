"""Presets: a model, the GPUs that it fits, and the settings for both.

    python -m builder presets          lists them
    python -m builder presets WORD     prints the environment of one

`hub_listing.py` writes them into the Runpod Hub's form; `deploy` takes one by name. The names of
GPU pools are Runpod's. An FP8 checkpoint runs on every GPU from Ampere on, but only Ada, Hopper and
newer ones compute in FP8; the older ones widen the weights to 16 bits as they read them.

The models are those most used in autumn 2026 by the hub's downloads and by what vLLM's recipes and
other workers tune. Qwen3.6 drafts with its own layers (SPECULATIVE_METHOD=mtp), which its preset
leaves off: malformed tool calls were reported with it.

Exit codes: 0 done; 2 there is no such preset.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from builder.cli import Console, aligned, command_parser, run_command
from builder.errors import InvalidArgument

TOOLS = {"ENABLE_AUTO_TOOL_CHOICE": "true"}
EAGLE_TOKENS = 3  # drafted per step, as vLLM's recipes have it


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
        speculator: the repository of an EAGLE-3 draft model for this model.
    """

    name: str
    model: str
    gpu: str
    gpu_pools: tuple[str, ...]
    environment: Mapping[str, str]
    engine: str = "vllm"
    gpu_count: int = 1
    speculator: str | None = None

    def variables(self) -> dict[str, str]:
        """Return the environment of a worker with this preset."""
        variables = {"MODEL_NAME": self.model, **self.environment}
        if self.speculator is not None:
            variables |= {
                "SPECULATIVE_METHOD": "eagle3",
                "SPECULATIVE_MODEL": self.speculator,
                "NUM_SPECULATIVE_TOKENS": str(EAGLE_TOKENS),
            }
        return variables


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
        speculator="RedHatAI/Qwen3-8B-speculator.eagle3",
    ),
    Preset(
        "Tiny FP8: Qwen3 1.7B",
        "Qwen/Qwen3-1.7B-FP8",
        "one GPU of 16 to 24 GB",
        ("AMPERE_16", "AMPERE_24", "ADA_24"),
        {
            "MAX_MODEL_LEN": "16384",
            "MAX_NUM_SEQS": "64",
            "TOOL_CALL_PARSER": "hermes",
            "REASONING_PARSER": "qwen3",
            **TOOLS,
        },
        speculator="AngelSlim/Qwen3-1.7B_eagle3",
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
        "Llama 8B FP8: Llama 3.1 8B",
        "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic",
        "one GPU of 24 to 48 GB",
        ("ADA_24", "ADA_32_PRO", "ADA_48_PRO"),
        {
            "MAX_MODEL_LEN": "16384",
            "MAX_NUM_SEQS": "64",
            "TOOL_CALL_PARSER": "llama3_json",
            **TOOLS,
        },
        speculator="RedHatAI/Llama-3.1-8B-Instruct-speculator.eagle3",
    ),
    Preset(
        "gpt-oss 20B: reasoning",
        "openai/gpt-oss-20b",
        "one GPU of 24 to 48 GB",
        ("ADA_24", "ADA_32_PRO", "ADA_48_PRO"),
        {
            "MAX_MODEL_LEN": "32768",
            "MAX_NUM_SEQS": "32",
            "TOOL_CALL_PARSER": "openai",
            "REASONING_PARSER": "openai_gptoss",
            **TOOLS,
        },
        speculator="RedHatAI/gpt-oss-20b-speculator.eagle3",
    ),
    Preset(
        "gpt-oss 120B: reasoning, a mixture of experts",
        "openai/gpt-oss-120b",
        "one GPU of 80 or 96 GB",
        ("ADA_80_PRO", "BLACKWELL_96"),
        {
            "MAX_MODEL_LEN": "32768",
            "MAX_NUM_SEQS": "64",
            "TOOL_CALL_PARSER": "openai",
            "REASONING_PARSER": "openai_gptoss",
            **TOOLS,
        },
        speculator="RedHatAI/gpt-oss-120b-speculator.eagle3",
    ),
    Preset(
        "27B FP8: Qwen3.6 27B, reasoning",
        "Qwen/Qwen3.6-27B-FP8",
        "one GPU of 48 GB",
        ("ADA_48_PRO",),
        {
            "MAX_MODEL_LEN": "32768",
            "MAX_NUM_SEQS": "8",
            "TOOL_CALL_PARSER": "qwen3_coder",
            "REASONING_PARSER": "qwen3",
            **TOOLS,
        },
    ),
    Preset(
        "35B MoE FP8: Qwen3.6 35B-A3B, reasoning",
        "Qwen/Qwen3.6-35B-A3B-FP8",
        "one GPU of 80 or 96 GB",
        ("ADA_80_PRO", "BLACKWELL_96"),
        {
            "MAX_MODEL_LEN": "65536",
            "MAX_NUM_SEQS": "128",
            "TOOL_CALL_PARSER": "qwen3_coder",
            "REASONING_PARSER": "qwen3",
            **TOOLS,
        },
    ),
    Preset(
        "31B FP8: Gemma 4 31B",
        "RedHatAI/gemma-4-31B-it-FP8-block",
        "one GPU of 80 or 96 GB",
        ("ADA_80_PRO", "BLACKWELL_96"),
        {
            "MAX_MODEL_LEN": "32768",
            "MAX_NUM_SEQS": "32",
            "TOOL_CALL_PARSER": "gemma4",
            "REASONING_PARSER": "gemma4",
            **TOOLS,
        },
        speculator="RedHatAI/gemma-4-31B-it-speculator.eagle3",
    ),
    Preset(
        "Coder FP8: Qwen3 Coder 30B-A3B",
        "Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8",
        "one GPU of 48 GB",
        ("ADA_48_PRO",),
        {
            "MAX_MODEL_LEN": "32768",
            "MAX_NUM_SEQS": "32",
            "TOOL_CALL_PARSER": "qwen3_coder",
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
        speculator="RedHatAI/Llama-3.3-70B-Instruct-speculator.eagle3",
    ),
    Preset(
        "Embeddings FP8: Qwen3 Embedding 4B",
        "chroma-core/Qwen3-Embedding-4B-FP8-Dynamic",
        "one GPU of 24 GB",
        ("ADA_24", "AMPERE_24"),
        {"RUNNER": "pooling", "MAX_MODEL_LEN": "8192", "MAX_NUM_SEQS": "128"},
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


def main(argv: Sequence[str] | None = None) -> int:
    """Print all presets, or the environment of one."""
    parser = command_parser("presets", str(__doc__))
    parser.add_argument("preset", nargs="?", metavar="WORD", help="print the environment of one")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(argv)

    def work(console: Console) -> None:
        chosen = PRESETS if options.preset is None else (find_preset(options.preset),)
        if options.json:
            made = [{"word": preset_slug(preset), **asdict(preset)} for preset in chosen]
            console.print(json.dumps(made, indent=2))
        elif options.preset is None:
            console.print("\n".join(_table()))
        else:
            for name, value in chosen[0].variables().items():
                console.print(f"{name}={value}")

    return run_command("presets", work)


def _table() -> list[str]:
    rows = [("WORD", "MODEL", "GPU", "TOOLS, REASONING", "DRAFT")]
    for preset in PRESETS:
        environment = preset.environment
        parsers = [environment.get(f"{kind}_PARSER", "–") for kind in ("TOOL_CALL", "REASONING")]
        draft = "–" if preset.speculator is None else "EAGLE-3"
        gpu = preset.gpu if preset.engine == "vllm" else f"{preset.gpu}, {preset.engine}"
        rows.append((preset_slug(preset), preset.model, gpu, ", ".join(parsers), draft))
    return aligned(rows, left=range(len(rows[0])))
