"""Settings that both engines have, each under its own name: one table, and its application.

Either name works with either engine, so an environment made for one of them serves the other. A
name that is in neither column goes to the engine's own parser as it is, see `flags.py`; one that
only the other engine has stops the start, for it cannot be honoured.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from handler.engine.flags import NO, EngineFlags, truth
from handler.errors import InvalidSetting

EngineName = Literal["vllm", "sglang"]
Convert = Callable[[str], str | None]  # None: there is nothing to set
TITLES: dict[EngineName, str] = {"vllm": "vLLM", "sglang": "SGLang"}
OTHER: dict[EngineName, EngineName] = {"vllm": "sglang", "sglang": "vllm"}
# Names of the surroundings as well, such as those of a cluster of machines.
AMBIENT = frozenset({"MASTER_ADDR", "MASTER_PORT", "EP", "WATERMARK"})
# A flag in what an engine says, and the ones that go by another setting here.
OPTION = re.compile(r"(?<![\w-])(`?)--([a-z][a-z0-9-]*)\1(?!\.?\w|-)")
BETTER = {"IS_EMBEDDING": "RUNNER=pooling"}
# The flags of both engines, of which only one is installed: `python -m handler.engine.flag_names`
# writes them.
FLAG_NAMES = Path(__file__).with_name("flag_names.json")


def _same(value: str) -> str | None:
    return value


def _not(value: str) -> str | None:
    return "false" if truth(value) else "true"


def _nothing(_: str) -> str | None:
    return None


def _renamed(names: Mapping[str, str]) -> Convert:
    return lambda value: names.get(value, value)


def _tokens(value: str) -> str | None:
    """SGLang takes the model's own length where vLLM finds the longest that fits."""
    return None if value.lower() in ("auto", "-1") else value


def _embeds(value: str) -> str | None:
    if value not in ("pooling", "generate", "auto"):
        raise ValueError("should be pooling or generate")
    return "true" if value == "pooling" else None


def _pools(value: str) -> str | None:
    return "pooling" if truth(value) else None


TOOL_CALL_PARSERS = {  # vLLM's name → SGLang's, where they differ
    "apertus": "apertus2509",
    "deepseek_v3": "deepseekv3",
    "deepseek_v31": "deepseekv31",
    "deepseek_v32": "deepseekv32",
    "deepseek_v4": "deepseekv4",
    "deepseek_v41": "deepseekv41",
    "hunyuan_a13b": "hunyuan",
    "llama3_json": "llama3",
    "llama4_pythonic": "pythonic",
    "minimax_m2": "minimax-m2",
    "minimax_m3": "minimax-m3",
    "muse_glimmer": "muse",
    "openai": "gpt-oss",
}
REASONING_PARSERS = {
    "deepseek_r1": "deepseek-r1",
    "deepseek_v3": "deepseek-v3",
    "deepseek_v4": "deepseek-v4",
    "deepseek_v41": "deepseek-v41",
    "hunyuan_a13b": "hunyuan",
    "minimax_m2": "minimax",
    "minimax_m2_append_think": "minimax-append-think",
    "minimax_m3": "minimax-m3",
    "muse_glimmer": "muse",
    "nemotron_v3": "nemotron_3",
    "openai_gptoss": "gpt-oss",
}


def _backwards(names: Mapping[str, str], **more: str) -> Convert:
    return _renamed({theirs: ours for ours, theirs in names.items()} | more)


@dataclass(frozen=True)
class SettingAlias:
    """One setting of both engines.

    Attributes:
        vllm: its name with vLLM.
        sglang: its name with SGLang, None where SGLang does it without a setting.
        to_vllm: what a value of SGLang's is with vLLM.
        to_sglang: what a value of vLLM's is with SGLang.
    """

    vllm: str
    sglang: str | None
    to_vllm: Convert = _same
    to_sglang: Convert = _same

    def name(self, engine: EngineName) -> str | None:
        """Return its name with an engine."""
        return self.vllm if engine == "vllm" else self.sglang

    def convert(self, engine: EngineName, variable: str, value: str) -> str | None:
        """Return the value of a variable as the engine spells it.

        Raises:
            ValueError: it has no counterpart.
        """
        if variable == self.name(engine) and self.vllm != self.sglang:
            return value
        return (self.to_vllm if engine == "vllm" else self.to_sglang)(value)


TABLE = (
    SettingAlias("MAX_MODEL_LEN", "CONTEXT_LENGTH", to_sglang=_tokens),
    SettingAlias("MAX_NUM_SEQS", "MAX_RUNNING_REQUESTS"),
    SettingAlias("MAX_NUM_BATCHED_TOKENS", "CHUNKED_PREFILL_SIZE"),
    SettingAlias("GPU_MEMORY_UTILIZATION", "MEM_FRACTION_STATIC"),
    SettingAlias(
        "KV_CACHE_DTYPE",
        "KV_CACHE_DTYPE",
        to_vllm=_renamed({"bf16": "bfloat16"}),
        to_sglang=_renamed({"fp8": "fp8_e4m3"}),
    ),
    SettingAlias("ENABLE_PREFIX_CACHING", "DISABLE_RADIX_CACHE", _not, _not),
    SettingAlias("BLOCK_SIZE", "PAGE_SIZE"),
    SettingAlias("TENSOR_PARALLEL_SIZE", "TP_SIZE"),
    SettingAlias("PIPELINE_PARALLEL_SIZE", "PP_SIZE"),
    SettingAlias("DATA_PARALLEL_SIZE", "DP_SIZE"),
    SettingAlias("ENFORCE_EAGER", "DISABLE_CUDA_GRAPH"),
    SettingAlias("SEED", "RANDOM_SEED"),
    SettingAlias("HF_OVERRIDES", "JSON_MODEL_OVERRIDE_ARGS"),
    SettingAlias("RUNNER", "IS_EMBEDDING", _pools, _embeds),
    SettingAlias("ENABLE_AUTO_TOOL_CHOICE", None, to_sglang=_nothing),
    SettingAlias(
        "TOOL_CALL_PARSER",
        "TOOL_CALL_PARSER",
        # pythonic is also a parser of vLLM's own.
        to_vllm=_backwards(TOOL_CALL_PARSERS, qwen="hermes", qwen25="hermes", pythonic="pythonic"),
        to_sglang=_renamed(TOOL_CALL_PARSERS),
    ),
    SettingAlias(
        "REASONING_PARSER",
        "REASONING_PARSER",
        to_vllm=_backwards(REASONING_PARSERS),
        to_sglang=_renamed(REASONING_PARSERS),
    ),
    SettingAlias("ENABLE_PROMPT_TOKENS_DETAILS", "ENABLE_CACHE_REPORT"),
    SettingAlias("MAX_LORAS", "MAX_LORAS_PER_BATCH"),
    SettingAlias("MAX_CPU_LORAS", "MAX_LOADED_LORAS"),
)
NAMES = frozenset(name for row in TABLE for name in (row.vllm, row.sglang) if name)


def arguments(flags: EngineFlags, engine: EngineName, environ: Mapping[str, str]) -> list[str]:
    """Return the arguments for the engine's parser from all variables in the table.

    Raises:
        InvalidSetting: the engine has no such value, or two names say different things.
    """
    made: list[str] = []
    for row in TABLE:
        found: dict[str, list[str]] = {}
        for variable in dict.fromkeys((row.vllm, row.sglang)):
            value = environ.get(variable or "", "").strip()
            if variable and value:
                found[variable] = _argument(flags, engine, row, variable, value)
        if len({tuple(spelled) for spelled in found.values()}) > 1:
            said = " and ".join(f"{name}={environ[name]!r}" for name in found)
            raise InvalidSetting(f"{said} are one setting with two values: leave one of them out.")
        made += next(iter(found.values()), [])
    return made


def _argument(
    flags: EngineFlags, engine: EngineName, row: SettingAlias, variable: str, value: str
) -> list[str]:
    try:
        converted = row.convert(engine, variable, value)
    except ValueError as error:
        raise InvalidSetting(f"{variable}={value!r}: {error} with {TITLES[engine]}.") from error
    name = row.name(engine)
    return flags.argument(name, converted, variable) if name and converted is not None else []


def refuse_foreign(engine: EngineName, environ: Mapping[str, str], known: Collection[str]) -> None:
    """Stop the start at a setting that only the other engine has.

    A switch that is off as it would be unless set asks for nothing.

    Args:
        engine: the one that runs.
        environ: the variables.
        known: names that mean something with it.

    Raises:
        InvalidSetting: names the variable.
    """
    other = OTHER[engine]
    flags = json.loads(FLAG_NAMES.read_text(encoding="utf-8"))[other]
    off, foreign = frozenset(flags["off"]), frozenset(flags["off"] + flags["other"])
    for name in sorted(foreign & environ.keys() - set(known) - AMBIENT):
        value = environ[name].strip()
        if value and not (name in off and value.lower() in NO):
            raise InvalidSetting(
                f"{name}={value!r} is a setting of {TITLES[other]}, and {TITLES[engine]} has none "
                f"like it: leave it out, or take the image with {TITLES[other]}."
            )


def with_variables(text: str) -> str:
    """Return what an engine says, with variables for the flags of engines in it."""

    def variable(found: re.Match[str]) -> str:
        name = found[2].replace("-", "_").upper()
        return BETTER.get(name, name) if name in _flag_names() else found[0]

    return OPTION.sub(variable, text)


@cache
def _flag_names() -> frozenset[str]:
    engines = json.loads(FLAG_NAMES.read_text(encoding="utf-8")).values()
    return frozenset(name for names in engines for kind in names.values() for name in kind)
