"""LORA_MODULES, and the adapters that it names."""

import json

import pytest

from handler.errors import InvalidSetting, ModelUnavailable
from handler.model.lora import LoraSpec, locate_adapters, parse_lora_modules, read_adapter
from handler.model.sources import FoundFiles, ModelSources
from tests.support.model_folders import safetensors

PATHS = ("org/sql", "/loras/x", "o/y")


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        (
            '[{"name": "sql", "path": "org/sql", "revision": "v1"}, '
            '{"name": "x", "repository": "o/x"}]',
            (LoraSpec("sql", "org/sql", "v1"), LoraSpec("x", "o/x")),
        ),
        ('{"name": "sql", "path": "/a", "base_model_name": "org/base"}', (LoraSpec("sql", "/a"),)),
        ("sql=org/sql x=/loras/x", (LoraSpec("sql", "org/sql"), LoraSpec("x", "/loras/x"))),
        ("sql=org/sql, x=/loras/x,y=o/y", tuple(map(LoraSpec, "sql x y".split(), PATHS))),
        ('[{"lora_name": "sql", "lora_path": "org/sql"}]', (LoraSpec("sql", "org/sql"),)),
    ],
    ids=["list", "one object", "pairs", "pairs with commas", "SGLang's keys"],
)
def test_the_setting_has_the_forms_of_vllm_sglang_and_other_workers(text, specs):
    assert parse_lora_modules(text) == specs


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[broken", "(Expecting value: line 1 column 2 (char 1))."),
        ("[1]", "(1 must be a JSON object)."),
        ("org/sql", "('org/sql' has no =)."),
        ('[{"name": "a b", "path": "x"}]', "(invalid name 'a b')."),
        ('[{"name": "a"}]', "(a has no path)."),
        ('[{"name": "a", "path": "x", "rank": 4}]', "(unknown key 'rank')."),
        ("a=x a=y", "has two adapters named 'a'."),
        ("a--b=x", "(invalid name 'a--b')."),
    ],
    ids=["no JSON", "number", "no name", "space", "no path", "unknown key", "twice", "dashes"],
)
def test_an_invalid_setting_is_an_error_with_its_value_and_the_reason(text, reason):
    with pytest.raises(InvalidSetting) as caught:
        parse_lora_modules(text)
    assert str(caught.value).startswith(f"LORA_MODULES={text!r} ")
    assert str(caught.value).endswith(reason)


def test_the_rank_of_an_adapter_is_the_largest_of_its_matrices(tmp_path):
    config = {"r": 8, "rank_pattern": {"q_proj": 16, "v_proj": 4}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(safetensors(""))
    adapter = read_adapter("a", FoundFiles(tmp_path, "a", "a local folder"))
    assert (adapter.name, adapter.path, adapter.rank) == ("a", tmp_path, 16)


@pytest.mark.parametrize(
    "config", [{}, {"r": "8"}, {"r": 0}, {"r": 8, "rank_pattern": ["q_proj"]}], ids=str
)
def test_an_adapter_without_a_rank_is_an_error(tmp_path, config):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(safetensors(""))
    with pytest.raises(InvalidSetting) as caught:
        read_adapter("a", FoundFiles(tmp_path, "a", "a local folder"))
    assert str(caught.value) == (
        "LORA_MODULES: a needs a rank `r` above zero in its adapter_config.json."
    )


def test_a_folder_without_an_adapter_is_an_error(tmp_path):
    with pytest.raises(ModelUnavailable) as caught:
        locate_adapters(f"a={tmp_path}", ModelSources(tmp_path))
    assert str(caught.value) == (
        f"LORA_MODULES={str(tmp_path)!r} looks like a local folder, but has no adapter_config.json."
    )
