"""Variables become flags of any argparse parser; here a small one in place of an engine's."""

import argparse
import json

import pytest

from handler.engine.flags.parser import (
    EngineFlags,
    FlagError,
    parse_engine_flags,
)
from handler.engine.flags.removed_names import unused_variable_warnings
from handler.errors import InvalidSetting


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise FlagError(message)


@pytest.fixture
def flags():
    """Flags of every kind, and one that is refused."""
    parser = Parser(allow_abbrev=False)
    parser.add_argument("--max-num-seqs", "--seqs", type=int, default=128)
    parser.add_argument("--dtype", choices=["half", "auto"])
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--prefix-caching", action=argparse.BooleanOptionalAction)
    parser.add_argument("--domains", nargs="+")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--limits", type=json.loads)
    parser.add_argument("--port", "-p")
    parser.add_argument("--key", "-k")
    return EngineFlags(parser, ["help", "port", "key"], positive=["max_num_seqs"])


@pytest.mark.parametrize(
    ("name", "value", "arguments"),
    [
        ("MAX_NUM_SEQS", "64", ["--max-num-seqs=64"]),
        ("SEQS", "64", ["--max-num-seqs=64"]),
        ("ENFORCE_EAGER", "True", ["--enforce-eager"]),
        ("ENFORCE_EAGER", "0", []),
        ("PREFIX_CACHING", "on", ["--prefix-caching"]),
        ("PREFIX_CACHING", "off", ["--no-prefix-caching"]),
        ("DOMAINS", "a.example, b.example", ["--domains", "a.example", "b.example"]),
        ("DOMAINS", '["a.example", {"b": 1}]', ["--domains", "a.example", '{"b": 1}']),
        ("DOMAINS", '{"a": 1}', ["--domains", '{"a": 1}']),
        ("DOMAINS", "[]", []),
        ("DTYPE", "Half", ["--dtype=half"]),
    ],
)
def test_a_value_becomes_arguments(flags, name, value, arguments):
    assert flags.argument(name, value) == arguments


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MAX_NUM_SEQS", "many", "MAX_NUM_SEQS='many': invalid int value: 'many'"),
        ("DTYPE", "int3", "DTYPE='int3': invalid choice: 'int3' (choose from 'half', 'auto')"),
        ("ENFORCE_EAGER", "maybe", "ENFORCE_EAGER='maybe' must be true or false."),
        (
            "DOMAINS",
            "[broken",
            "DOMAINS='[broken' must be a JSON list (Expecting value: line 1 column 2 (char 1)).",
        ),
        (
            "LIMITS",
            "{'image': 2}",
            """LIMITS="{'image': 2}" must be a JSON object (Expecting property name enclosed in """
            "double quotes: line 1 column 2 (char 1)).",
        ),
    ],
    ids=["number", "choice", "boolean", "list", "Python"],
)
def test_an_invalid_value_is_refused_with_its_variable(flags, name, value, message):
    with pytest.raises(InvalidSetting) as caught:
        flags.argument(name, value)
    assert str(caught.value) == message


def test_the_negative_form_of_a_boolean_flag_is_no_variable():
    """As a variable it would say the reverse of its name.

    A stand-in for the flags of vLLM 0.33, which also have `--disable-x` beside `--enable-x`.
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


def parse(flags, engine_args="", gpu_count=1, **environ):
    return parse_engine_flags(
        "vllm",
        flags,
        worker_arguments=["--max-num-seqs=1"],
        environ=environ,
        engine_args=engine_args,
        gpu_count=gpu_count,
    )


def test_later_sources_win(flags):
    """The worker's own arguments, then aliases, then variables, then ENGINE_ARGS."""
    assert parse(flags).max_num_seqs == 1
    assert parse(flags, MAX_RUNNING_REQUESTS="2").max_num_seqs == 2
    assert parse(flags, MAX_RUNNING_REQUESTS="2", SEQS="3").max_num_seqs == 3
    assert parse(flags, "--seqs 4", SEQS="3").max_num_seqs == 4


def test_tensor_parallel_size_auto_becomes_a_number(flags):
    parsed = parse(flags, TP_SIZE="auto", gpu_count=2)
    assert parsed.tensor_parallel_size == 2


def test_two_names_of_one_setting_must_agree(flags):
    """Values are compared as the engine spells them."""
    both = {"MAX_NUM_SEQS": "7", "MAX_RUNNING_REQUESTS": "8"}
    with pytest.raises(InvalidSetting) as caught:
        flags.from_aliases("vllm", both)
    assert str(caught.value) == (
        "MAX_NUM_SEQS='7' and MAX_RUNNING_REQUESTS='8' are one setting with two values: remove one."
    )
    same = both | {"MAX_RUNNING_REQUESTS": "7"}
    assert flags.from_aliases("vllm", same) == ["--max-num-seqs=7"]


@pytest.mark.parametrize(
    ("engine_args", "message"),
    [
        ("--dtyp=x", "ENGINE_ARGS: unrecognized arguments: --dtyp=x"),
        ("'--x", 'ENGINE_ARGS="\'--x": No closing quotation'),
        (
            "--task=embed",
            "ENGINE_ARGS: --task is an old flag: set TASK as a variable, which is translated.",
        ),
        (
            "--num-scheduler-steps 8",
            "ENGINE_ARGS: --num-scheduler-steps is an old flag: use ASYNC_SCHEDULING.",
        ),
        *(
            (
                given,
                f"ENGINE_ARGS: {option} cannot be set: the engine's own HTTP server does not run "
                "here, and the worker's settings name the model.",
            )
            for given, option in (("--key x", "--key"), ("-k x", "-k"), ("-h", "-h"))
        ),
        ("—seed 8", "ENGINE_ARGS='—seed 8': '—seed' must begin with two hyphens (--)"),
    ],
    ids=["unknown", "quote", "renamed", "removed", "refused", "refused short", "help", "dash"],
)
def test_invalid_engine_args_are_refused(flags, engine_args, message):
    with pytest.raises(InvalidSetting) as caught:
        parse(flags, engine_args)
    assert str(caught.value) == message


def test_variables_without_effect_are_logged_once(flags, caplog):
    """Similar and removed names, each with what would be right; other names are not ours."""
    parse(
        flags,
        MAX_NUM_SEQ="1",
        SWAP_SPACE="4",
        LD_LIBRARY_PATH="/x",
        RUNPOD_POD_ID="x",
        HOSTNAME="x",
    )
    assert [record.message for record in caplog.records] == [
        "MAX_NUM_SEQ is not a setting and has no effect: did you mean MAX_NUM_SEQS?",
        "SWAP_SPACE has no effect: the engine recomputes preempted requests; "
        "use KV_OFFLOADING_SIZE to offload.",
    ]


def test_names_of_the_platform_and_of_libraries_are_not_warned_of():
    known = {"HF_TOKEN", "VLLM_EXTRA_ARGS"}
    assert unused_variable_warnings({"HF_TOKENS": "x", "VLLM_EXTRA_ARG": "x"}, known, {}) == []


def parsed(flags, environ, engine_args=""):
    return vars(
        parse_engine_flags(
            "vllm",
            flags,
            worker_arguments=[],
            environ=environ,
            engine_args=engine_args,
            gpu_count=1,
        )
    )


def test_zero_and_none_are_the_default_and_said_in_one_line(flags, caplog):
    caplog.set_level("INFO", "handler")
    given = {"MAX_NUM_SEQS": "0", "DTYPE": "None", "TENSOR_PARALLEL_SIZE": '"2",'}
    made = parsed(flags, given)
    assert (made["max_num_seqs"], made["dtype"], made["tensor_parallel_size"]) == (128, None, 2)
    assert [record.message for record in caplog.records] == [
        "read as not set: DTYPE='None' (the word for no value), "
        "MAX_NUM_SEQS='0' (must be above zero)"
    ]


def test_a_word_of_a_workers_setting_is_not_read_as_a_flags(flags, caplog):
    """QUANTIZATION=none says that the checkpoint is not quantized."""
    caplog.set_level("INFO", "handler")
    parsed(flags, {"QUANTIZATION": "none"})
    assert [record.message for record in caplog.records] == []


def test_a_zero_on_the_command_line_is_the_users_word(flags):
    assert parsed(flags, {}, engine_args="--max-num-seqs 0")["max_num_seqs"] == 0


def test_what_the_engines_parser_says_of_none_and_zero_is_known():
    parser = Parser()
    parser.add_argument("--backend", choices=["none", "ray"])
    parser.add_argument("--rank", type=int, choices=[8, 16])
    parser.add_argument("--level", type=int, choices=[0, 1])
    parser.add_argument("--size", "--length", type=int)
    rules = EngineFlags(parser, ["help"], positive=["size"]).value_rules
    assert rules.words == {"BACKEND": "none"}
    assert rules.positive == {"RANK", "SIZE", "LENGTH"}


def test_a_flag_of_the_shared_table_that_the_engine_has_dropped_is_an_error(flags):
    with pytest.raises(InvalidSetting) as caught:
        parsed(flags, {"BLOCK_SIZE": "16"})
    assert str(caught.value) == (
        "BLOCK_SIZE='16': the installed engine has no flag --block-size, remove it."
    )


@pytest.mark.parametrize("value", ["", "None", "0", "false"])
def test_a_name_without_effect_is_not_told_when_its_field_was_left_blank(value):
    assert unused_variable_warnings({"SWAP_SPACE": value}, (), {"SWAP_SPACE": "gone."}) == []


def test_a_switch_that_was_turned_off_to_change_something_is_told():
    environ = {"RAW_OPENAI_OUTPUT": "0"}
    assert unused_variable_warnings(environ, (), {"RAW_OPENAI_OUTPUT": "gone."}) == [
        "RAW_OPENAI_OUTPUT has no effect: gone."
    ]


def test_a_key_of_the_file_that_is_no_flag_is_an_error(flags, tmp_path):
    file = tmp_path / "flags.yaml"
    file.write_text("max-num-seq: 1")
    given = {"ENGINE_CONFIG_FILE": str(file), "MAX_NUM_SEQ": "1"}
    with pytest.raises(InvalidSetting) as caught:
        parsed(flags, given)
    assert str(caught.value) == (
        f"{file}: max-num-seq is not a flag of vLLM: did you mean max-num-seqs?"
    )


@pytest.mark.parametrize(
    "text",
    ["--seqs 8 \\\n  --dtype half", "--seqs 8 \\\r\n--dtype half", "--seqs 8 \\ --dtype half \\"],
    ids=["lines", "lines of Windows", "joined lines"],
)
def test_engine_args_may_be_a_command_of_several_lines(flags, text):
    made = parse(flags, text)
    assert (made.max_num_seqs, made.dtype) == (8, "half")


def test_flags_of_the_engines_server_are_ignored_and_told(flags, caplog):
    """Command lines that worked elsewhere have them."""
    parse(flags, "--port 8000", VLLM_EXTRA_ARGS="--port 8000")
    assert [record.message for record in caplog.records] == [
        "VLLM_EXTRA_ARGS: --port has no effect: the engine's own HTTP server does not run here"
    ]


def test_all_invalid_variables_are_told_at_once(flags):
    """Under the names that the user gave them."""
    with pytest.raises(InvalidSetting) as caught:
        parse(flags, MAX_NUM_SEQS="8", SEQS="x", LIMITS="{", DTYPE="half")
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == ["LIMITS", "SEQS"]
    with pytest.raises(InvalidSetting) as caught:
        parse(flags, SCHEDULE_POLICY="lpm", LOG_REQUESTS="true")
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == [
        *("LOG_REQUESTS", "SCHEDULE_POLICY")
    ]
    with pytest.raises(InvalidSetting, match=r"^VLLM_EXTRA_ARGS: unrecognized arguments: --x"):
        parse(flags, "--x", VLLM_EXTRA_ARGS="--x")


def test_a_setting_in_lower_case_is_warned_of():
    warned = unused_variable_warnings({"max_model_len": "8192"}, {"MAX_MODEL_LEN"}, {})
    assert warned == [
        "max_model_len is not a setting and has no effect: did you mean MAX_MODEL_LEN?"
    ]
