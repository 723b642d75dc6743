"""Variables named like the engine's flags reach it, and its own parser judges their values.

The parser is vLLM's, and importing it is most of this file's time.
"""

import argparse
import os

import pytest

from handler.engine import aliases
from handler.engine.aliases import with_variables
from handler.engine.flags import EngineFlags
from handler.engine.response import refusal
from handler.engine.vllm.flags import REFUSED, REMOVED, engine_flags
from handler.errors import InvalidSetting
from tests.support.vllm_adapter import checked_vllm_adapter as check

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported


def flags(folder, **environ):
    return vars(check(folder, **environ)._args)


def test_variables_become_flags_of_every_kind(model, tmp_path):
    """Numbers, truth values, choices, JSON and lists, in the ways that people write them."""
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer_config.json").write_text("{}")
    parsed = flags(
        model(),
        MAX_NUM_SEQS="64",
        GPU_MEMORY_UTILIZATION="0.85",
        ENFORCE_EAGER="True",
        ENABLE_PREFIX_CACHING="0",
        DISABLE_LOG_STATS="false",
        DTYPE="bfloat16",
        SPECULATIVE_CONFIG='{"method": "ngram", "num_speculative_tokens": 3}',
        ALLOWED_MEDIA_DOMAINS="a.example, b.example",
        TOKENIZER_NAME=str(tokenizer),
        MAX_MODEL_LEN="4k",
    )
    assert parsed["max_num_seqs"] == 64
    assert parsed["gpu_memory_utilization"] == 0.85
    assert parsed["enforce_eager"] is True
    assert parsed["enable_prefix_caching"] is False
    assert parsed["disable_log_stats"] is False
    assert parsed["dtype"] == "bfloat16"
    assert parsed["speculative_config"] == {"method": "ngram", "num_speculative_tokens": 3}
    assert parsed["allowed_media_domains"] == ["a.example", "b.example"]
    assert parsed["tokenizer"] == str(tokenizer)
    assert parsed["max_model_len"] == 4000


def test_the_other_half_of_a_switch_is_no_setting():
    """It says no, so as a variable it would say the reverse of its name.

    A stand-in for the switches of vLLM 0.33, which also have `--disable-x` beside `--enable-x`.
    """

    class Paired(argparse.BooleanOptionalAction):
        def __init__(self, option_strings, dest, **more):
            super().__init__(option_strings, dest, **more)
            self.option_strings = [*option_strings, "--disable-cache"]

        def __call__(self, parser, namespace, values, option_string=None):
            setattr(namespace, self.dest, option_string == "--enable-cache")

    parser = argparse.ArgumentParser()
    parser.add_argument("--enable-cache", action=Paired)
    parser.add_argument("--verbose", action=argparse.BooleanOptionalAction)
    assert EngineFlags(parser, ["help"]).names == {"ENABLE_CACHE", "VERBOSE"}


def test_the_model_has_the_folder_name_unless_another_is_given(model):
    """The served name is never a path."""
    assert flags(model())["served_model_name"] == ["tiny"]
    assert flags(model(), SERVED_MODEL_NAME="mine")["served_model_name"] == ["mine"]


def test_engine_args_win_over_variables(model):
    """They stand last, as on a command line."""
    parsed = flags(model(), MAX_NUM_SEQS="64", ENGINE_ARGS="--max-num-seqs 8 --max-model-len=2048")
    assert (parsed["max_num_seqs"], parsed["max_model_len"]) == (8, 2048)


def test_variables_of_other_programs_are_left_alone(model):
    """A container has a PORT, a HOST and more that are not the engine's."""
    others = {
        "HOST": "example",
        "PORT": "80",
        "ROOT_PATH": "/api",
        "MIDDLEWARE": "os.system",
        "CONFIG": "/etc/x.yaml",
        "API_KEY": "k",
        "HEADLESS": "1",
        "UDS": "/run/x",
    }
    plain, crowded = flags(model()), flags(model(), **others)
    assert {name: crowded[name] for name in REFUSED & crowded.keys()} == {
        name: plain[name] for name in REFUSED & plain.keys()
    }


def test_the_token_is_no_flag(model):
    """The engine's processes find it in their environment; it is in no argument."""
    adapter = check(model(), HF_TOKEN="hf_secret")
    assert "hf_secret" not in str(adapter._args)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"DTYPE": "int3"},
            "DTYPE='int3': invalid choice: 'int3' (choose from 'auto', 'bfloat16', 'float', "
            "'float16', 'float32', 'half')",
        ),
        ({"MAX_NUM_SEQS": "many"}, "MAX_NUM_SEQS='many': invalid int value: 'many'"),
        (
            {"LOAD_FORMAT": "runai_streamer"},
            "LOAD_FORMAT='runai_streamer' needs the package runai-model-streamer, which is not "
            "installed here: add it to the image, or leave LOAD_FORMAT out.",
        ),
        ({"ENFORCE_EAGER": "maybe"}, "ENFORCE_EAGER='maybe' should be true or false."),
        (
            {"ALLOWED_MEDIA_DOMAINS": "[broken"},
            "ALLOWED_MEDIA_DOMAINS='[broken': not a JSON list "
            "(Expecting value: line 1 column 2 (char 1))",
        ),
        ({"ENGINE_ARGS": "--dtyp=x"}, "ENGINE_ARGS: unrecognized arguments: --dtyp=x"),
        ({"ENGINE_ARGS": "'--x"}, 'ENGINE_ARGS="\'--x": No closing quotation'),
        (
            {"ENGINE_ARGS": "--port 80"},
            "ENGINE_ARGS: --port is not the engine's to set here: the worker has no HTTP server "
            "in queue mode and names the model itself.",
        ),
        ({"ENGINE_ARGS": "foo"}, "ENGINE_ARGS: 'foo' is no flag; give flags only."),
        (
            {"ENGINE_ARGS": "-h"},
            "ENGINE_ARGS: -h is not the engine's to set here: the worker has no HTTP server "
            "in queue mode and names the model itself.",
        ),
        (
            {"CUSTOM_CHAT_TEMPLATE": "/nope/x.jinja"},
            "CUSTOM_CHAT_TEMPLATE='/nope/x.jinja' is neither a file nor a template.",
        ),
        ({"ENABLE_AUTO_TOOL_CHOICE": "1"}, "ENABLE_AUTO_TOOL_CHOICE requires TOOL_CALL_PARSER"),
    ],
    ids=[
        "choice",
        "int",
        "loader",
        "bool",
        "list",
        "unknown",
        "quote",
        "server",
        "word",
        "help",
        "template",
        "together",
    ],
)
def test_a_bad_value_is_refused_before_the_engine_loads(model, environ, message):
    """With the variable's name, the value, and what the engine accepts."""
    with pytest.raises(InvalidSetting) as caught:
        check(model(), **environ)
    assert str(caught.value) == message


@pytest.mark.parametrize("variable", ["TOOL_CALL_PARSER", "REASONING_PARSER"])
def test_an_unknown_parser_is_refused_with_the_known_ones(model, variable):
    """vLLM itself would find out only after the weights are loaded."""
    with pytest.raises(InvalidSetting, match=f"^{variable}='nosuch': choose from .*, "):
        check(model(), **{variable: "nosuch"})


def test_a_parser_of_the_users_own_is_imported(model, tmp_path):
    """From a file, as vLLM's launcher does where that runs."""
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from vllm.tool_parsers import ToolParser, ToolParserManager\n"
        "@ToolParserManager.register_module('mine')\n"
        "class Mine(ToolParser):\n"
        "    pass\n"
    )
    environ = {"TOOL_CALL_PARSER": "mine", "TOOL_PARSER_PLUGIN": str(plugin)}
    assert flags(model(), **environ)["tool_call_parser"] == "mine"
    with pytest.raises(InvalidSetting, match=r"^TOOL_PARSER_PLUGIN='/nope\.py' is no file"):
        check(model(), TOOL_CALL_PARSER="mine", TOOL_PARSER_PLUGIN="/nope.py")


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
    ids=["value", "off", "on", "both", "off by wish", "empty", "ambient"],
)
def test_what_only_the_other_engine_has_is_refused(engine, name, value, refused):
    """A switch that is off as it would be unless set asks for nothing."""
    known = {"STREAM_INTERVAL"}
    if not refused:
        aliases.refuse_foreign(engine, {name: value}, known)
        return
    with pytest.raises(InvalidSetting, match=f"^{name}='{value}' is a setting of "):
        aliases.refuse_foreign(engine, {name: value}, known)


def test_near_misses_and_removed_names_are_warned_of_once(model, caplog):
    """Each with the name that would be right; nothing is said of what is not ours."""
    check(
        model(),
        MAX_MODEL_LENGTH="1",
        GPU_MEM_UTILIZATION="1",
        MAX_CONCURENCY="1",
        SWAP_SPACE="4",
        HOME="/root",
        LD_LIBRARY_PATH="/x",
        RUNPOD_POD_ID="x",
        HOSTNAME="x",
    )
    warned = [r.message for r in caplog.records if r.name == "handler.engine.command_line"]
    assert [line for line in warned if "effect" in line] == [
        "GPU_MEM_UTILIZATION is not a setting and has no effect: "
        "did you mean GPU_MEMORY_UTILIZATION?",
        "MAX_CONCURENCY is not a setting and has no effect: did you mean MAX_CONCURRENCY?",
        "MAX_MODEL_LENGTH is not a setting and has no effect: did you mean MAX_MODEL_LEN?",
        "SWAP_SPACE has no effect: the engine recomputes preempted requests; "
        "use KV_OFFLOADING_SIZE to offload.",
    ]


def test_what_is_called_removed_is_gone(model):
    """Parity with the engine: none of these names is a flag of it, and what we advise is."""
    dests = {action.dest.upper() for action in engine_flags()._parser._actions}
    assert REMOVED.keys() & dests == set()
    advised = {
        word.split("=")[0].strip(".,;")
        for advice in REMOVED.values()
        for word in advice.split()
        if word.isupper() and len(word) > 3
    }
    assert advised - dests - {"RUNPOD_INIT_TIMEOUT", "ENGINE_ARGS"} == set()


def test_a_prequantized_checkpoint_keeps_the_engine_choice_of_kernel(model):
    """Naming the method would turn Marlin off on a GPU."""
    folder = model({"quant_method": "awq", "bits": 4})
    assert flags(folder, QUANTIZATION="awq")["quantization"] is None


def test_an_unquantized_checkpoint_is_quantized_on_the_way_in(model):
    """QUANTIZATION names one of the engine's methods then."""
    assert flags(model(), QUANTIZATION="fp8")["quantization"] == "fp8"
    with pytest.raises(InvalidSetting, match=r"^QUANTIZATION='int9': choose from .*, awq, "):
        check(model(), QUANTIZATION="int9")


@pytest.mark.parametrize(
    ("environ", "plan"),
    [
        ({}, "1"),
        ({"GPU_MEMORY_UTILIZATION": "0.8"}, None),
        ({"ENGINE_ARGS": "--gpu-memory-utilization 0.8"}, None),
        ({"VLLM_ENABLE_STARTUP_PLAN": "0"}, "0"),
    ],
    ids=["default", "share", "share as flag", "off"],
)
def test_a_measured_memory_is_remembered_for_one_share_of_it(model, monkeypatch, environ, plan):
    """vLLM's plan does not say for which share it was made."""
    seen = {}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    def see(args):
        seen["plan"] = os.environ.get("VLLM_ENABLE_STARTUP_PLAN")

    monkeypatch.setattr("handler.engine.vllm.platform.place_on_cpu", see)
    check(model(), **environ)
    assert seen == {"plan": plan}


@pytest.mark.parametrize(
    ("said", "shown"),
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
def test_an_engine_that_asks_for_a_flag_names_the_variable(said, shown):
    """At the start, and to a caller."""
    assert with_variables(said) == shown
    payload = {"error": {"message": said, "param": "--tool-call-parser"}}
    refused = refusal(400, payload, None)
    assert (str(refused), refused.param) == (shown, "--tool-call-parser")


def test_the_start_names_variables_where_the_engine_names_flags(model):
    """A setting that needs another one."""
    with pytest.raises(InvalidSetting, match=r"^ENABLE_AUTO_TOOL_CHOICE requires TOOL_CALL_PARSER"):
        check(model(), ENABLE_AUTO_TOOL_CHOICE="true")
