"""Variables of other workers and older engines that have another name today, and still work.

The names are those of worker-vllm and worker-sglang; docs/moving.md lists them. Those that nothing
can take the place of are in `handler/engine/flags/removed_names.py`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from handler.errors import InvalidSetting
from handler.settings.types import (
    DEFAULT_DRAFT_TOKENS,
    FALSE_WORDS,
    parse_bool,
    parse_speculative_method,
)
from handler.settings.variables import clean_value, is_no_value, is_zero

# A value → today's variables with theirs. None where the engine has nothing of the kind.
Rule = Callable[[str], Mapping[str, str]] | None

TASKS: dict[str, dict[str, str]] = {
    "auto": {},
    "generate": {"RUNNER": "generate"},
    "transcription": {"RUNNER": "generate"},
    "embed": {"RUNNER": "pooling", "CONVERT": "embed"},
    "embedding": {"RUNNER": "pooling", "CONVERT": "embed"},
    "classify": {"RUNNER": "pooling", "CONVERT": "classify"},
    "score": {"RUNNER": "pooling", "CONVERT": "classify"},
    "reward": {"RUNNER": "pooling"},
}

METHOD_NAMES = ("SPECULATIVE_METHOD", "SPECULATIVE_ALGORITHM", "SPEC_METHOD")
ENGINE_METHODS = {"draft": "draft_model"}


def _whole_number(value: str) -> int:
    if not value.isdecimal():
        raise ValueError("must be a whole number")
    return int(value)


# Variable → field of vLLM's SPECULATIVE_CONFIG, and its type.
SPECULATIVE_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "NGRAM_PROMPT_LOOKUP_MAX": ("prompt_lookup_max", _whole_number),
    "NGRAM_PROMPT_LOOKUP_MIN": ("prompt_lookup_min", _whole_number),
    "SPECULATIVE_DRAFT_TENSOR_PARALLEL_SIZE": ("draft_tensor_parallel_size", _whole_number),
    "SPECULATIVE_ENFORCE_EAGER": ("enforce_eager", parse_bool),
    "SPECULATIVE_MAX_MODEL_LEN": ("max_model_len", _whole_number),
    "SPECULATIVE_QUANTIZATION": ("quantization", str),
}
SPECULATIVE_SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "SPEC_MODEL": ("model", str),
    "SPECULATIVE_DRAFT_MODEL": ("model", str),
    "SPECULATIVE_DRAFT_MODEL_PATH": ("model", str),
    "SPECULATIVE_MODEL": ("model", str),
    "SPECULATIVE_DRAFT_MODEL_REVISION": ("revision", str),
    "SPECULATIVE_MODEL_REVISION": ("revision", str),
    "SPEC_TOKENS": ("num_speculative_tokens", _whole_number),
    "NUM_SPECULATIVE_TOKENS": ("num_speculative_tokens", _whole_number),
}


def _renamed(name: str) -> Rule:
    return lambda value: {name: value}


def _switch(name: str, on: str = "true") -> Rule:
    """Return a rule for a boolean that sets another variable if it is on."""
    return lambda value: {name: on} if parse_bool(value) else {}


def _field(name: str, field: str, parse: Callable[[str], Any] = str) -> Rule:
    """Return a rule for what is a field of a JSON setting today."""
    return lambda value: {name: json.dumps({field: parse(value)})}


def _switch_field(name: str, field: str) -> Rule:
    return lambda value: {name: json.dumps({field: True})} if parse_bool(value) else {}


def _task(*names: str) -> Rule:
    def variables(value: str) -> Mapping[str, str]:
        if value.lower() not in TASKS:
            raise ValueError(f"must be one of {', '.join(TASKS)}; or set {', '.join(names)}")
        found = TASKS[value.lower()]
        return {name: found[name] for name in names if name in found}

    return variables


def _grammar_backend(name: str, field: str | None = None, **spelled: str) -> Rule:
    """Leave outlines to the engine: it was the default of other workers' forms, not a wish."""

    def variables(value: str) -> Mapping[str, str]:
        backend = spelled.get(value, value)
        chosen = {name: json.dumps({field: backend}) if field else backend}
        return {} if value == "outlines" else chosen

    return variables


def _capture_sizes(value: str) -> Mapping[str, str]:
    sizes = value.replace(",", " ").strip("[]").split()
    name = "MAX_CUDAGRAPH_CAPTURE_SIZE" if len(sizes) == 1 else "CUDAGRAPH_CAPTURE_SIZES"
    return {name: " ".join(sizes)}


def _media_limits(value: str) -> Mapping[str, str]:
    """Return JSON for `image=1,video=0`, as worker-vllm wrote it."""
    pairs = [pair.strip().partition("=")[::2] for pair in value.split(",")]
    if all(name.isidentifier() and count.isdecimal() for name, count in pairs):
        value = json.dumps({name: int(count) for name, count in pairs})
    return {"LIMIT_MM_PER_PROMPT": value}


def _tokenizer_mode(value: str) -> Mapping[str, str]:
    return {"TOKENIZER_MODE": "hf" if value == "slow" else value}


@dataclass(frozen=True)
class OldName:
    """What a variable became, per engine."""

    vllm: Rule = None
    sglang: Rule = None

    def rule(self, engine: str) -> Rule:
        return self.vllm if engine == "vllm" else self.sglang


OLD_NAMES = {
    "TASK": OldName(_task("RUNNER", "CONVERT"), _task("RUNNER")),
    "TOKENIZER_MODE": OldName(vllm=_tokenizer_mode),  # vLLM has no slow tokenizers any more
    "LIMIT_MM_PER_PROMPT": OldName(_media_limits, _media_limits),
    "OVERRIDE_POOLER_CONFIG": OldName(vllm=_renamed("POOLER_CONFIG")),
    "OPENAI_RESPONSE_ROLE": OldName(vllm=_renamed("RESPONSE_ROLE")),
    "VLLM_ATTENTION_BACKEND": OldName(vllm=_renamed("ATTENTION_BACKEND")),
    "WORKER_USE_RAY": OldName(vllm=_switch("DISTRIBUTED_EXECUTOR_BACKEND", "ray")),
    "CUDA_GRAPH_SIZES": OldName(vllm=_capture_sizes),
    "DISABLE_MM_PREPROCESSOR_CACHE": OldName(vllm=_switch("MM_PROCESSOR_CACHE_GB", "0")),
    "ENABLE_MULTIMODAL_ENCODER_DATA_PARALLEL": OldName(
        _switch("MM_ENCODER_TP_MODE", "data"), _switch("MM_ENABLE_DP_ENCODER")
    ),
    "GUIDED_DECODING_BACKEND": OldName(
        _grammar_backend("STRUCTURED_OUTPUTS_CONFIG", "backend"),
        _grammar_backend("GRAMMAR_BACKEND", guidance="llguidance"),
    ),
    "GUIDED_DECODING_DISABLE_ANY_WHITESPACE": OldName(
        _switch_field("STRUCTURED_OUTPUTS_CONFIG", "disable_any_whitespace"),
        _switch("CONSTRAINED_JSON_DISABLE_ANY_WHITESPACE"),
    ),
    "GUIDED_DECODING_DISABLE_ADDITIONAL_PROPERTIES": OldName(
        vllm=_switch_field("STRUCTURED_OUTPUTS_CONFIG", "disable_additional_properties")
    ),
    "EPLB_WINDOW_SIZE": OldName(vllm=_field("EPLB_CONFIG", "window_size", _whole_number)),
    "EPLB_STEP_INTERVAL": OldName(vllm=_field("EPLB_CONFIG", "step_interval", _whole_number)),
    "EPLB_LOG_BALANCEDNESS": OldName(vllm=_switch_field("EPLB_CONFIG", "log_balancedness")),
    "NUM_REDUNDANT_EXPERTS": OldName(
        _field("EPLB_CONFIG", "num_redundant_experts", _whole_number),
        _renamed("EP_NUM_REDUNDANT_EXPERTS"),
    ),
    "ATTENTION_REDUCE_IN_FP32": OldName(sglang=_renamed("TRITON_ATTENTION_REDUCE_IN_FP32")),
    "DISABLE_DISK_CACHE": OldName(sglang=_renamed("DISABLE_OUTLINES_DISK_CACHE")),
    "SPECULATIVE_QUANTIZATION": OldName(sglang=_renamed("SPECULATIVE_DRAFT_MODEL_QUANTIZATION")),
    "DISABLE_FLASHINFER": OldName(sglang=_switch("ATTENTION_BACKEND", "triton")),
    "DISABLE_FLASHINFER_SAMPLING": OldName(sglang=_switch("SAMPLING_BACKEND", "pytorch")),
    "ENABLE_FLASHINFER_MLA": OldName(sglang=_switch("ATTENTION_BACKEND", "flashinfer")),
}


def translate_old_names(
    engine: str, environ: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return the environment with today's names in place of old ones, and a line about each.

    Raises:
        InvalidSetting: a value means nothing, or an old and a new name differ.
    """
    made, notes = dict(environ), []
    for name, old in OLD_NAMES.items():
        rule, value = old.rule(engine), _value(environ, name)
        if rule is None or value is None:
            continue
        new = _applied(rule, name, value)
        if new == {name: value}:
            continue
        del made[name]
        for variable, text in new.items():
            made[variable] = _merged(name, variable, clean_value(made.get(variable, "")), text)
        if new:
            shown = " and ".join(f"{variable}={text}" for variable, text in new.items())
            notes.append(f"{name}={value} is read as {shown}")
        elif value.lower() not in FALSE_WORDS:
            notes.append(f"{name}={value} has no effect: the engine chooses")
    notes += _translate_speculation(engine, made)
    return made, notes


def _value(environ: Mapping[str, str], name: str) -> str | None:
    value = clean_value(environ.get(name, ""))
    return value if value and not is_no_value(value) else None


def _applied(rule: Callable[[str], Any], name: str, value: str) -> Any:
    try:
        return rule(value)
    except ValueError as error:
        raise InvalidSetting(f"{name}={value!r} {error}.") from error


def _merged(old: str, variable: str, present: str, text: str) -> str:
    """Return the value of a variable that may be set already; objects get the fields of both."""
    if not present or present == text:
        return text
    have, given = _json(present), _json(text)
    if isinstance(have, dict) and isinstance(given, dict):
        agree = all(have.get(key, given[key]) == given[key] for key in given)
        if agree:
            return json.dumps(have | given)
    raise InvalidSetting(
        f"{old} and {variable}={present!r} are one setting with two values: remove {old}."
    )


def _translate_speculation(engine: str, environ: dict[str, str]) -> list[str]:
    """Set SPECULATIVE_METHOD where worker-vllm guessed it, and SPECULATIVE_CONFIG from its fields.

    The fields are vLLM's. Those that have no effect stay in `environ` and are warned of.
    """
    for name in SPECULATIVE_FIELDS:
        if is_zero(_value(environ, name) or ""):
            del environ[name]
    if _value(environ, "SPECULATIVE_CONFIG"):
        return []
    notes = []
    method = next((clean_value(environ[name]) for name in METHOD_NAMES if environ.get(name)), "")
    if not method and (guessed := _guess_method(environ)):
        method = environ["SPECULATIVE_METHOD"] = guessed
        notes.append(f"SPECULATIVE_METHOD is not set and read as {guessed}")
        if guessed == "ngram":
            environ.pop("SPECULATIVE_MODEL", None)
    fields = _fields(SPECULATIVE_FIELDS, environ)
    if fields and engine == "vllm" and parse_speculative_method(method) not in ("", "none"):
        notes.append(_make_speculative_config(parse_speculative_method(method), environ))
    return notes


def _guess_method(environ: Mapping[str, str]) -> str | None:
    """Return the method by the draft model's name, as worker-vllm did."""
    model = _value(environ, "SPECULATIVE_MODEL")
    if model is None:
        return "ngram" if _value(environ, "NGRAM_PROMPT_LOOKUP_MAX") else None
    if model.lower() in ("ngram", "[ngram]"):
        return "ngram"
    return next((each for each in ("eagle3", "eagle") if each in model.lower()), "draft")


def _make_speculative_config(method: str, environ: dict[str, str]) -> str:
    config: dict[str, Any] = {"method": ENGINE_METHODS.get(method, method)}
    if tokens := DEFAULT_DRAFT_TOKENS.get(method):
        config["num_speculative_tokens"] = tokens
    config |= _fields(SPECULATIVE_SETTINGS, environ) | _fields(SPECULATIVE_FIELDS, environ)
    read = [name for name in SPECULATIVE_FIELDS if _value(environ, name)]
    for name in (*METHOD_NAMES, *SPECULATIVE_SETTINGS, *SPECULATIVE_FIELDS):
        environ.pop(name, None)
    environ["SPECULATIVE_CONFIG"] = json.dumps(config)
    return f"{', '.join(read)}: read as SPECULATIVE_CONFIG={environ['SPECULATIVE_CONFIG']}"


def _fields(
    table: Mapping[str, tuple[str, Callable[[str], Any]]], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Return the fields that are set; zero is unset, as in the forms."""
    found = {}
    for name, (field, parse) in table.items():
        value = _value(environ, name)
        if value is not None and not is_zero(value):
            found[field] = _applied(parse, name, value)
    return found


def _json(text: str) -> Any:
    """Return a JSON value, or the text if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text
