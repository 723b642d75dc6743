"""What the Hub's listing offers passes the engine's own argument parser."""

import pytest

from builder.hub_listing import ENGINE_FLAGS
from builder.presets import PRESETS
from handler.engine.vllm.flags import engine_flags
from tests.support.vllm_adapter import checked_vllm_adapter

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported

VLLM = [preset for preset in PRESETS if preset.engine == "vllm"]


@pytest.mark.parametrize("preset", VLLM, ids=lambda preset: preset.name)
def test_vllm_accepts_the_settings_of_a_preset(model, preset):
    adapter = checked_vllm_adapter(model(), **preset.environment)
    for name, value in preset.environment.items():
        parsed = "-1" if (name, value) == ("MAX_MODEL_LEN", "auto") else value
        assert str(getattr(adapter._args, name.lower())).lower() == parsed


def test_vllm_accepts_every_flag_of_the_form(model):
    values = {"number": "1", "boolean": "false"}
    given = {
        "ENABLE_PREFIX_CACHING": "true",
        "KV_CACHE_DTYPE": "fp8",
        "TOOL_CALL_PARSER": "hermes",
        "REASONING_PARSER": "qwen3",
        "MAX_MODEL_LEN": "4096",
        "TENSOR_PARALLEL_SIZE": "1",
    }
    sent = {name: given.get(name) or values[kind] for name, (kind, _) in ENGINE_FLAGS.items()}
    parsed = vars(checked_vllm_adapter(model(), **sent)._args)
    assert parsed.keys() >= {name.lower() for name in sent}


def test_a_switch_of_the_form_without_a_default_is_off_in_the_engine():
    """Untouched it is sent as false, which must change nothing."""
    flags = engine_flags()
    switches = [name for name, (kind, _) in ENGINE_FLAGS.items() if kind == "boolean"]
    assert [name for name in switches if not flags.is_off(name) and flags.default(name)] == []


def test_a_form_that_was_left_blank_starts_vllm_like_an_empty_environment(model):
    blank = {"number": "0", "boolean": "false"}
    sent = {name: blank.get(kind, "") for name, (kind, _) in ENGINE_FLAGS.items()}
    folder = model()
    assert vars(checked_vllm_adapter(folder, **sent)._args) == vars(
        checked_vllm_adapter(folder)._args
    )
