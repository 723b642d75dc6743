"""Mistral's own format: when it is used, and its configuration with the usual names."""

import json

import pytest

from handler.model.attention import attention_heads
from handler.model.checkpoint import is_complete, model_config, quantization_of
from handler.model.mistral import is_requested, is_used
from tests.support.model_folders import safetensors

PARAMS = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 128}
OWN = ["params.json", "consolidated.safetensors", "tekken.json"]
USUAL = ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("environ", "engine_args", "requested"),
    [
        ({}, "", False),
        ({"LOAD_FORMAT": "mistral"}, "", True),
        ({"LOAD_FORMAT": '"Mistral"'}, "", True),
        ({"CONFIG_FORMAT": "mistral"}, "", True),
        ({"CONFIG_FORMAT": "mistral", "LOAD_FORMAT": "auto"}, "", True),
        ({"CONFIG_FORMAT": "mistral", "LOAD_FORMAT": "safetensors"}, "", False),
        ({"MODEL_CONFIG_PARSER": "mistral"}, "", True),
        ({"TOKENIZER_MODE": "mistral"}, "", False),
        ({}, "--load-format mistral --config_format=mistral", True),
        ({}, "--load_format=mistral", True),
        ({"LOAD_FORMAT": "mistral"}, "--load-format dummy", False),
        ({}, "--load-format", False),
        ({}, "an 'open quote", False),
    ],
)
def test_the_engines_flags_ask_for_mistrals_weights(environ, engine_args, requested):
    assert is_requested(environ, engine_args) is requested


@pytest.mark.parametrize(
    ("names", "requested", "used"),
    [
        (OWN, False, True),
        ([*OWN, *USUAL], False, False),
        ([*OWN, *USUAL], True, True),
        ([*OWN, "config.json"], False, True),
        (USUAL, True, False),
        (["params.json", "model.safetensors"], True, False),
    ],
    ids=["alone", "both", "both, asked for", "no usual weights", "usual only", "params only"],
)
def test_what_is_there_and_the_settings_decide(names, requested, used):
    assert is_used(names, requested) is used


def folder_with(tmp_path, **params):
    (tmp_path / "params.json").write_text(json.dumps({**PARAMS, **params}))
    (tmp_path / "consolidated.safetensors").write_bytes(safetensors("w"))
    return tmp_path


def test_params_json_is_read_with_the_usual_names(tmp_path):
    config = model_config(folder_with(tmp_path))
    assert attention_heads(config) == (4, 2)
    assert (config["hidden_size"], config["num_hidden_layers"]) == (64, 2)


@pytest.mark.parametrize(
    ("quantization", "method"),
    [
        (None, None),
        ({"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}, "fp8"),
        (
            {
                "quant_method": "compressed_tensors",
                "config_groups": {"g": {"weights": {"type": "int", "num_bits": 4}}},
            },
            "compressed-tensors-int4",
        ),
    ],
    ids=["none", "fp8", "compressed-tensors"],
)
def test_the_quantization_in_params_json_is_known(tmp_path, quantization, method):
    assert quantization_of(folder_with(tmp_path, quantization=quantization)) == method


def test_a_checkpoint_is_complete_with_all_that_its_index_names(tmp_path):
    folder = folder_with(tmp_path)
    assert is_complete(folder)
    index = {"weight_map": {"a": "consolidated.safetensors", "b": "consolidated-2.safetensors"}}
    (folder / "consolidated.safetensors.index.json").write_text(json.dumps(index))
    assert not is_complete(folder)


def test_the_usual_weights_are_not_enough_where_mistrals_are_asked_for(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(safetensors("w"))
    assert is_complete(tmp_path)
    assert not is_complete(tmp_path, mistral_requested=True)
