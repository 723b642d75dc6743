"""A file of flags below the variables."""

import pytest

from handler.engine.flags.config_file import merge_config_file
from handler.errors import InvalidSetting

REFUSED = frozenset(
    {
        "port",
        "host",
        "uvicorn_log_level",
        "ssl_keyfile",
        "api_key",
        "served_model_name",
        "model",
        "log_level",
    }
)
FLAGS = """\
model: org/name
served-model-name: [big, small]
max-num-seqs: 64
max_model_len: 8k
enforce-eager: false
kv-cache-dtype: fp8
compilation-config:
  mode: 3
allowed-media-domains: [a.example]
seed:
"""


@pytest.fixture
def flags_file(tmp_path):
    """A function that writes a file of flags and returns its path."""

    def write(text, name="flags.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("variable", ["ENGINE_CONFIG_FILE", "VLLM_CONFIG_FILE"])
def test_each_key_is_read_as_the_variable_of_its_flag(flags_file, variable):
    path = flags_file(FLAGS)
    merged, file = merge_config_file({variable: path}, REFUSED)
    assert merged == {variable: path} | {
        "ENGINE_CONFIG_FILE": path,
        "MODEL_NAME": "org/name",
        "SERVED_MODEL_NAME": '["big", "small"]',
        "MAX_NUM_SEQS": "64",
        "MAX_MODEL_LEN": "8k",
        "ENFORCE_EAGER": "false",
        "KV_CACHE_DTYPE": "fp8",
        "COMPILATION_CONFIG": '{"mode": 3}',
        "ALLOWED_MEDIA_DOMAINS": '["a.example"]',
        "SEED": "",
    }
    assert file.keys["MAX_NUM_SEQS"] == "max-num-seqs"


def test_variables_win_over_the_file_under_any_name_of_a_setting(flags_file):
    path = flags_file("max-model-len: 1\ntokenizer: a\nmax-num-seqs: 2\nseed: 3")
    given = {
        "VLLM_CONFIG_FILE": path,
        "CONTEXT_LENGTH": "4096",
        "TOKENIZER_NAME": "b",
        "MAX_NUM_SEQS": "",
    }
    merged, _ = merge_config_file(given, REFUSED)
    assert merged == given | {"ENGINE_CONFIG_FILE": path, "MAX_NUM_SEQS": "2", "SEED": "3"}


@pytest.mark.parametrize("flag", ["--config {}", "--config={}"])
def test_the_file_may_be_named_in_engine_args(flags_file, flag):
    path = flags_file("seed: 3")
    given = {"ENGINE_ARGS": f"--dtype half {flag.format(path)} --chat-template 'a b'"}
    merged, _ = merge_config_file(given, REFUSED)
    assert merged == {
        "ENGINE_ARGS": "--dtype half --chat-template 'a b'",
        "ENGINE_CONFIG_FILE": path,
        "SEED": "3",
    }


def test_without_a_file_nothing_changes():
    given = {"ENGINE_ARGS": "--seed 3 '", "CONFIG": "/etc/x.yaml"}
    assert merge_config_file(given, REFUSED) == (given, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ssl-keyfile: /x",
            "{path}: ssl-keyfile cannot be set: the engine's own HTTP server does not ",
        ),
        ("api-key: hf_x", "{path}: api-key cannot be set: "),
        ("--log_level: info", "{path}: --log_level cannot be set: "),
        ("a: [", "{path} cannot be read: while parsing "),
        ("- seed", "{path} must have a flag and its value on each line."),
        ("max-num-seqs: 1\nmax_num_seqs: 2", "{path}: max-num-seqs and max_num_seqs are one flag"),
        ("seed: 1\ndtype: half\nseed: 2", "{path} has seed twice: remove one."),
    ],
    ids=["server", "key", "dashes", "broken", "list", "two spellings", "twice"],
)
def test_a_file_that_cannot_be_used_is_an_error_with_its_name_and_key(flags_file, text, message):
    path = flags_file(text)
    with pytest.raises(InvalidSetting) as caught:
        merge_config_file({"VLLM_CONFIG_FILE": path}, REFUSED)
    assert str(caught.value).startswith(message.format(path=path))
    assert "hf_x" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"VLLM_CONFIG_FILE": "/nope.yaml"},
            "VLLM_CONFIG_FILE: '/nope.yaml' must be an existing file of flags (.yaml, .yml, "
            ".json).",
        ),
        (
            {"ENGINE_ARGS": "--config"},
            "--config in ENGINE_ARGS: '' must be an existing file of flags (.yaml, .yml, .json).",
        ),
        (
            {"ENGINE_CONFIG_FILE": "a.yaml", "ENGINE_ARGS": "--config b.yaml"},
            "ENGINE_CONFIG_FILE and --config in ENGINE_ARGS name two files: give one.",
        ),
        (
            {"ENGINE_ARGS": "--config a.yaml --config b.yaml"},
            "--config in ENGINE_ARGS names two files: give one.",
        ),
    ],
    ids=["missing", "no path", "two", "flag twice"],
)
def test_a_file_that_is_not_there_is_an_error_with_what_names_it(given, message):
    with pytest.raises(InvalidSetting) as caught:
        merge_config_file(given, REFUSED)
    assert str(caught.value) == message


def test_an_error_about_a_value_of_the_file_names_the_file(flags_file):
    path = flags_file("max-num-seqs: many\nseed: 1")
    _, file = merge_config_file({"VLLM_CONFIG_FILE": path, "SEED": "x"}, REFUSED)
    message = "MAX_NUM_SEQS='many': invalid int value\nSEED='x': invalid int value"
    assert file.explain(message) == f"{path}: {message}"


def test_an_empty_file_sets_nothing(flags_file):
    path = flags_file("# nothing yet")
    _, file = merge_config_file({"ENGINE_CONFIG_FILE": path}, REFUSED)
    assert file.values == {}


def test_the_address_of_the_engines_server_in_the_example_of_vllm_is_not_ours(flags_file):
    """Its file names a host and a port, which have no effect here: PORT is the worker's."""
    path = flags_file('host: "127.0.0.1"\nport: 6379\nuvicorn-log-level: info\nseed: 3')
    merged, _ = merge_config_file({"VLLM_CONFIG_FILE": path}, REFUSED)
    assert merged == {"VLLM_CONFIG_FILE": path, "ENGINE_CONFIG_FILE": path, "SEED": "3"}
