"""Settings that both engines have, with each engine's name for them.

Either name works with either engine, so an environment made for one of them serves the other.
Other names reach the engine's own parser unchanged, see `flags.py`. A name that only the other
engine has stops the start, because it cannot take effect.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from handler.errors import InvalidSetting
from handler.settings.environ import ValueRules
from handler.settings.types import FALSE_WORDS, parse_bool

EngineName = Literal["vllm", "sglang"]
Convert = Callable[[str], str | None]  # None: the engine needs no such flag
TITLES: dict[EngineName, str] = {"vllm": "vLLM", "sglang": "SGLang"}
OTHER_ENGINE: dict[EngineName, EngineName] = {"vllm": "sglang", "sglang": "vllm"}
# Engine flags with names that a container may use for another purpose.
SHARED_WITH_OTHER_PROGRAMS = frozenset({"MASTER_ADDR", "MASTER_PORT", "EP", "WATERMARK"})
# Names of all flags of both engines, written by `flag_names.py`: a worker has one engine installed
# and must know the other one's names.
FLAG_NAMES = Path(__file__).with_name("flag_names.json")
# A flag in an engine's message.
FLAG_IN_TEXT = re.compile(r"(?<![\w-])(`?)--([a-z][a-z0-9-]*)\1(?!\.?\w|-)")
NOT_PASSED_ON = (
    "cannot be set: the engine's own HTTP server does not run here, and the worker's settings name "
    "the model"
)
# Server flags in command lines and files of other workers: they are ignored with a warning.
SERVER_ONLY = frozenset({"HOST", "PORT", "UVICORN_LOG_LEVEL", "LOG_LEVEL_HTTP"})
NO_SERVER = "has no effect: the engine's own HTTP server does not run here"
# Flags that users set with another variable.
VARIABLE_OF_FLAG = {"IS_EMBEDDING": "RUNNER=pooling"}

DTYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
}  # short name → the engines' name
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


def _unchanged(value: str) -> str | None:
    return value


def _negated(value: str) -> str | None:
    return "false" if parse_bool(value) else "true"


def _off_if_true(value: str) -> str | None:
    """Return no flag for a switch that is off, which is often a form's default."""
    return "false" if parse_bool(value) else None


def _no_flag(_: str) -> str | None:
    return None


def _renamed(names: Mapping[str, str]) -> Convert:
    return lambda value: names.get(value.lower(), value)


def _context_length(value: str) -> str | None:
    """Return no flag for vLLM's `auto`: SGLang then takes the model's own context length."""
    return None if value.lower() in ("auto", "-1") else value


def _runner_to_is_embedding(value: str) -> str | None:
    if value not in ("pooling", "generate", "auto"):
        raise ValueError("must be pooling or generate")
    return "true" if value == "pooling" else None


def _is_embedding_to_runner(value: str) -> str | None:
    return "pooling" if parse_bool(value) else None


def _to_vllm_names(sglang_names: Mapping[str, str], **more: str) -> Convert:
    return _renamed({theirs: ours for ours, theirs in sglang_names.items()} | more)


@dataclass(frozen=True)
class SettingAlias:
    """The names of one setting, and the conversion of its values from the other engine's.

    `sglang` is None where SGLang needs no setting for it.
    """

    vllm: str
    sglang: str | None
    to_vllm: Convert = _unchanged
    to_sglang: Convert = _unchanged

    def name(self, engine: EngineName) -> str | None:
        return self.vllm if engine == "vllm" else self.sglang

    def convert(self, engine: EngineName, variable: str, value: str) -> str | None:
        """Return the value of a variable as the engine spells it, None for no flag.

        Raises:
            ValueError: the engine has no such value.
        """
        if variable == self.name(engine) and self.vllm != self.sglang:
            return value
        return (self.to_vllm if engine == "vllm" else self.to_sglang)(value)


ALIASES = (
    SettingAlias("MAX_MODEL_LEN", "CONTEXT_LENGTH", to_sglang=_context_length),
    SettingAlias("MAX_NUM_SEQS", "MAX_RUNNING_REQUESTS"),
    SettingAlias("MAX_NUM_BATCHED_TOKENS", "CHUNKED_PREFILL_SIZE"),
    SettingAlias("GPU_MEMORY_UTILIZATION", "MEM_FRACTION_STATIC"),
    SettingAlias(
        "KV_CACHE_DTYPE",
        "KV_CACHE_DTYPE",
        to_vllm=_renamed({"bf16": "bfloat16"}),
        to_sglang=_renamed({"fp8": "fp8_e4m3"}),
    ),
    SettingAlias("ENABLE_PREFIX_CACHING", "DISABLE_RADIX_CACHE", _off_if_true, _negated),
    SettingAlias("DTYPE", "DTYPE", _renamed(DTYPES), _renamed(DTYPES)),
    SettingAlias("BLOCK_SIZE", "PAGE_SIZE"),
    SettingAlias("TENSOR_PARALLEL_SIZE", "TP_SIZE"),
    SettingAlias("PIPELINE_PARALLEL_SIZE", "PP_SIZE"),
    SettingAlias("DATA_PARALLEL_SIZE", "DP_SIZE"),
    SettingAlias("ENFORCE_EAGER", "DISABLE_CUDA_GRAPH"),
    SettingAlias("SEED", "RANDOM_SEED"),
    SettingAlias("HF_OVERRIDES", "JSON_MODEL_OVERRIDE_ARGS"),
    SettingAlias("LIMIT_MM_PER_PROMPT", "LIMIT_MM_DATA_PER_REQUEST"),
    SettingAlias("RUNNER", "IS_EMBEDDING", _is_embedding_to_runner, _runner_to_is_embedding),
    SettingAlias("ENABLE_AUTO_TOOL_CHOICE", None, to_sglang=_no_flag),
    SettingAlias(
        "TOOL_CALL_PARSER",
        "TOOL_CALL_PARSER",
        # vLLM has a parser called pythonic as well.
        to_vllm=_to_vllm_names(
            TOOL_CALL_PARSERS, qwen="hermes", qwen25="hermes", pythonic="pythonic"
        ),
        to_sglang=_renamed(TOOL_CALL_PARSERS),
    ),
    SettingAlias(
        "REASONING_PARSER",
        "REASONING_PARSER",
        to_vllm=_to_vllm_names(REASONING_PARSERS),
        to_sglang=_renamed(REASONING_PARSERS),
    ),
    SettingAlias("ENABLE_PROMPT_TOKENS_DETAILS", "ENABLE_CACHE_REPORT"),
    SettingAlias("MAX_LORAS", "MAX_LORAS_PER_BATCH"),
    SettingAlias("MAX_CPU_LORAS", "MAX_LOADED_LORAS"),
)
ALIAS_NAMES = frozenset(name for alias in ALIASES for name in (alias.vllm, alias.sglang) if name)


def refuse_settings_of_other_engine(
    engine: EngineName, environ: Mapping[str, str], known: Collection[str]
) -> None:
    """Stop the start at settings that only the other engine has.

    A boolean flag that is set to its default, off, is allowed, and so are the names that this
    engine or the worker knows.
    """
    other = OTHER_ENGINE[engine]
    flags = _flag_names()[other]
    off_by_default = frozenset(flags["off"])
    others = off_by_default | frozenset(flags["other"])
    complaints = []
    for name in sorted(others & environ.keys() - set(known) - SHARED_WITH_OTHER_PROGRAMS):
        value = environ[name].strip()
        if value and not (name in off_by_default and value.lower() in FALSE_WORDS):
            complaints.append(
                f"{name}={value!r} is a setting of {TITLES[other]}, and {TITLES[engine]} has no "
                f"equivalent: remove it, or use the image with {TITLES[other]}."
            )
    if complaints:
        raise InvalidSetting("\n".join(complaints))


def flags_to_variables(text: str) -> str:
    """Replace flags in an engine's message by the names of their variables."""

    def variable(found: re.Match[str]) -> str:
        name = found[2].replace("-", "_").upper()
        return VARIABLE_OF_FLAG.get(name, name) if name in _all_flag_names() else found[0]

    return FLAG_IN_TEXT.sub(variable, text)


@cache
def flag_rules() -> ValueRules:
    """Return the rules for reading the variables of both engines' flags."""
    engines = _flag_names().values()
    return ValueRules(
        names=_all_flag_names(),
        positive=frozenset(name for flags in engines for name in flags["positive"]),
        words={name: "none" for flags in engines for name in flags["none"]},
    )


@cache
def _all_flag_names() -> frozenset[str]:
    return frozenset(
        name for flags in _flag_names().values() for name in (*flags["off"], *flags["other"])
    )


@cache
def _flag_names() -> dict[str, dict[str, list[str]]]:
    names: dict[str, dict[str, list[str]]] = json.loads(FLAG_NAMES.read_text(encoding="utf-8"))
    return names
