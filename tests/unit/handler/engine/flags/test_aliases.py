"""Settings that both engines have, settings of the other engine, and flags in messages."""

import pytest

from handler.engine.flags.aliases import (
    ALIASES,
    flags_to_variables,
    refuse_settings_of_other_engine,
)
from handler.errors import InvalidSetting


@pytest.mark.parametrize(
    ("engine", "variable", "value", "converted"),
    [
        ("sglang", "ENABLE_PREFIX_CACHING", "False", "true"),
        ("vllm", "DISABLE_RADIX_CACHE", "1", "false"),
        ("vllm", "DISABLE_RADIX_CACHE", "false", None),
        ("sglang", "MAX_MODEL_LEN", "auto", None),
        ("sglang", "RUNNER", "pooling", "true"),
        ("sglang", "RUNNER", "generate", None),
        ("vllm", "IS_EMBEDDING", "yes", "pooling"),
        ("vllm", "IS_EMBEDDING", "no", None),
        ("sglang", "ENABLE_AUTO_TOOL_CHOICE", "true", None),
        ("vllm", "TOOL_CALL_PARSER", "qwen25", "hermes"),
        ("sglang", "TOOL_CALL_PARSER", "hermes", "hermes"),
    ],
)
def test_a_value_is_converted_to_the_engine_that_runs(engine, variable, value, converted):
    """None where the engine needs no flag."""
    [alias] = [each for each in ALIASES if variable in (each.vllm, each.sglang)]
    assert alias.convert(engine, variable, value) == converted


@pytest.mark.parametrize(
    ("engine", "name", "value", "refused"),
    [
        ("vllm", "SCHEDULE_POLICY", "lpm", True),
        ("vllm", "ENABLE_MIXED_CHUNK", "false", False),
        ("vllm", "ENABLE_MIXED_CHUNK", "true", True),
        ("vllm", "STREAM_INTERVAL", "0", False),
        ("sglang", "ASYNC_SCHEDULING", "false", True),
        ("sglang", "LOGPROBS_MODE", "", False),
        ("sglang", "MASTER_PORT", "29500", False),
    ],
    ids=[
        "value",
        "off by default",
        "on",
        "of both engines",
        "on by default",
        "empty",
        "of other programs",
    ],
)
def test_a_setting_of_the_other_engine_is_refused(engine, name, value, refused):
    """A boolean flag that is set to its default changes nothing and passes."""
    known = {"STREAM_INTERVAL"}
    if not refused:
        refuse_settings_of_other_engine(engine, {name: value}, known)
        return
    with pytest.raises(InvalidSetting, match=f"^{name}='{value}' is a setting of "):
        refuse_settings_of_other_engine(engine, {name: value}, known)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            '"auto" requires --enable-auto-tool-choice and --tool-call-parser to be set',
            '"auto" requires ENABLE_AUTO_TOOL_CHOICE and TOOL_CALL_PARSER to be set',
        ),
        ("Please add `--is-embedding` when launching", "Please add RUNNER=pooling when launching"),
        *(
            (text, text)
            for text in (
                "one -- two --x and-then--max-model-len",
                "git commit --no-edit",
                "--pooler-config.task",
                "--max-model-length",
            )
        ),
        ("--max-model-len, `--max-num-seqs`.", "MAX_MODEL_LEN, MAX_NUM_SEQS."),
        ("`--max-model-len 7` is too small", "`MAX_MODEL_LEN 7` is too small"),
    ],
)
def test_flags_in_an_engines_message_become_variables(message, shown):
    assert flags_to_variables(message) == shown
