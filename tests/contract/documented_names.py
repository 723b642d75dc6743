"""Each name in other workers' documentation, tried on an engine's own parser."""

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from builder.moving_page import EXAMPLES, LIBRARY_VARIABLES, Outcome, documented_names, outcome
from handler.engine.flags.aliases import ALIASES, EngineName
from handler.engine.flags.parser import EngineFlags, parse_engine_flags
from handler.engine.flags.removed_names import removed_names
from handler.errors import InvalidSetting
from handler.settings.environ import load_settings
from handler.settings.old_names import SPECULATIVE_FIELDS

NAMES = sorted({name for names in documented_names().values() for name in names})
# Tried one after the other until one changes something.
VALUES = ("true", "false", "2", "0.5", "http", "a", '{"a": 1}', "[1]", "DEBUG", "/")
SAMPLES = EXAMPLES | {
    "COLLECT_DETAILED_TRACES": "worker",
    "COMPILATION_CONFIG": '{"cudagraph_mode": "NONE"}',
    "EPLB_CONFIG": '{"window_size": 7}',
    "KV_EVENTS_CONFIG": '{"enable_kv_cache_events": true}',
    "KV_TRANSFER_CONFIG": '{"kv_role": "kv_both", "kv_connector": "c"}',
    "POOLER_CONFIG": '{"dimensions": 7}',
    "RUNNER": "pooling",
    "SAFETENSORS_LOAD_STRATEGY": "eager",
    "SPECULATIVE_METHOD": "ngram",
    "STRUCTURED_OUTPUTS_CONFIG": '{"backend": "guidance"}',
    "VLLM_CONFIG_FILE": str(Path(__file__).with_name("flags.yaml")),
}
# The package that reads a variable, and the file that has its name.
READERS = {
    "HF_HOME": ("huggingface_hub", "constants.py"),
    "HF_HUB_OFFLINE": ("huggingface_hub", "constants.py"),
    "HUGGINGFACE_HUB_CACHE": ("huggingface_hub", "constants.py"),
    "PYTORCH_ALLOC_CONF": ("torch", "lib/libc10.so"),
    "TOKENIZERS_PARALLELISM": ("tokenizers", "*.so"),
    "TRANSFORMERS_OFFLINE": ("huggingface_hub", "constants.py"),
    "VLLM_USE_DEEP_GEMM": ("vllm", "envs.py"),
}
# Without another setting they have no effect, or are refused.
GUIDANCE = {"GUIDED_DECODING_BACKEND": "guidance"}
BESIDE = {
    "GUIDED_DECODING_DISABLE_ADDITIONAL_PROPERTIES": GUIDANCE,
    "GUIDED_DECODING_DISABLE_ANY_WHITESPACE": GUIDANCE,
    **{name: {"SPECULATIVE_METHOD": "ngram"} for name in SPECULATIVE_FIELDS},
}


FORMS = json.loads(Path(__file__).with_name("forms.json").read_text(encoding="utf-8"))


def forms(engine: EngineName) -> list[Any]:
    """Return what a form of the Hub sends if only the model is filled in, as parameters."""
    return [
        pytest.param({key: str(value) for key, value in form.items()}, id=name)
        for name, form in FORMS.items()
        if name.startswith(f"worker-{engine} ")
    ]


def check_form(engine: EngineName, flags: EngineFlags, form: dict[str, str]) -> None:
    """The form of another worker starts this one."""
    load_settings({"ENGINE": engine, "MODEL_NAME": "org/name", **form})
    _parse(engine, flags, form)


def outcomes(engine: EngineName, *kinds: str) -> list[Any]:
    """Return the names of these kinds, as parameters of a test."""
    found = {name: outcome(engine, name) for name in NAMES}
    return [pytest.param(name, each, id=name) for name, each in found.items() if each.kind in kinds]


def check_effect(engine: EngineName, flags: EngineFlags, name: str) -> None:
    """Some value of the name changes a flag of the engine or a setting of the worker."""
    if name in LIBRARY_VARIABLES:
        assert name not in removed_names(engine)
        package, file = READERS[name]
        folder = Path(str(find_spec(package).submodule_search_locations[0]))
        assert any(name.encode() in each.read_bytes() for each in folder.glob(file))
        return
    if _needs_no_flag(engine, name):
        return
    beside = BESIDE.get(name, {})
    without = _effect(engine, flags, beside)
    tried = []
    for value in [SAMPLES[name]] if name in SAMPLES else _values(flags, name):
        try:
            if _effect(engine, flags, beside | {name: str(value)}) != without:
                return
            tried.append(f"{value}: no change")
        except InvalidSetting as error:
            tried.append(f"{value}: {error}")
    pytest.fail("\n".join(tried))


def check_report(
    engine: EngineName,
    flags: EngineFlags,
    name: str,
    expected: Outcome,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A name without effect is warned of; one that only the other engine has stops the start."""
    if expected.kind == "stops":
        with pytest.raises(InvalidSetting, match=f"^{name}='1' is a setting of "):
            _parse(engine, flags, {name: "1"})
        return
    with caplog.at_level(logging.WARNING):
        _parse(engine, flags, {name: "1"})
    assert [record.message for record in caplog.records] == [
        f"{name} has no effect: {expected.text}."
    ]


def _effect(engine: EngineName, flags: EngineFlags, environ: dict[str, str]) -> Any:
    settings = load_settings({"ENGINE": engine, **environ})
    return repr(settings), repr(sorted(vars(_parse(engine, flags, environ)).items()))


def _parse(engine: EngineName, flags: EngineFlags, environ: dict[str, str]) -> Any:
    return parse_engine_flags(
        engine, flags, worker_arguments=[], environ=environ, engine_args="", gpu_count=1
    )


def _values(flags: EngineFlags, name: str) -> list[str]:
    choices = flags.choices(name) if name in flags.names else []
    return [*map(str, choices), *VALUES]


def _needs_no_flag(engine: EngineName, name: str) -> bool:
    return any(name in (row.vllm, row.sglang) and row.name(engine) is None for row in ALIASES)
