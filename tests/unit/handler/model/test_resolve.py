"""The settings name a model, its tokenizer, its draft model and its adapters."""

import json

import pytest

from handler.errors import InvalidSetting, ModelUnavailable
from handler.model.resolve import resolve_model
from handler.model.sources import VOLUME_CACHE, ModelSources
from handler.settings.environ import load_settings
from tests.support.header_checkpoints import safetensors_header
from tests.support.hub import COMMIT
from tests.support.model_folders import baked_folder, cached_snapshot, model_folder


@pytest.fixture
def resolve(tmp_path):
    """Resolve the model of an environment, with a volume and baked files in tmp_path."""

    def resolve(**environ):
        settings = load_settings(environ)
        return resolve_model(settings, ModelSources(tmp_path / "volume", baked=tmp_path / "baked"))

    return resolve


def test_a_local_folder_is_served_by_its_name(tmp_path, resolve):
    folder = model_folder(tmp_path / "my-model", {"quant_method": "awq"})
    model = resolve(MODEL_NAME=str(folder))
    assert (model.path, model.name, model.quantization) == (folder, "my-model", "awq")
    assert model.is_local


def test_a_baked_model_needs_no_name_and_is_not_hidden_by_a_volume(tmp_path, resolve):
    folder = baked_folder(tmp_path / "baked/model")
    cached_snapshot(tmp_path / "volume" / VOLUME_CACHE, "models--org--name", "main")
    model = resolve()
    assert (model.path, model.name, model.is_local) == (folder, "org/name", True)
    assert model.source == f"the image, commit {COMMIT[:12]}"


def test_another_revision_of_the_baked_model_needs_no_name(tmp_path, resolve):
    baked_folder(tmp_path / "baked/model")
    other = cached_snapshot(tmp_path / "volume" / VOLUME_CACHE, "models--org--name", "v2")
    assert resolve(MODEL_REVISION="v2").path == other


def test_no_model_name_is_an_error_that_says_what_to_give(resolve):
    with pytest.raises(InvalidSetting) as caught:
        resolve()
    assert str(caught.value) == (
        "MODEL_NAME is not set: give a hub repository such as Qwen/Qwen2.5-7B-Instruct-AWQ "
        "or a local folder."
    )


def test_an_invalid_config_json_is_an_error_with_the_models_name(tmp_path, resolve):
    folder = model_folder(tmp_path / "m")
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelUnavailable) as caught:
        resolve(MODEL_NAME=str(folder))
    assert str(caught.value) == "m: config.json must be a JSON object."


def test_quantization_is_compared_with_the_checkpoint_in_any_case(tmp_path, resolve):
    folder = model_folder(tmp_path / "m", {"quant_method": "awq"})
    assert resolve(MODEL_NAME=str(folder), QUANTIZATION="AWQ").quantization == "awq"
    with pytest.raises(InvalidSetting, match=r"^QUANTIZATION='gptq' contradicts the checkpoint: m"):
        resolve(MODEL_NAME=str(folder), QUANTIZATION="GPTQ")


def test_a_tokenizer_is_the_baked_one_unless_another_is_named(tmp_path, resolve):
    baked_folder(tmp_path / "baked/model")
    baked = baked_folder(tmp_path / "baked/tokenizer", "org/tokenizer", tokenizer_config__json="{}")
    own = model_folder(tmp_path / "own", tokenizer_config__json="{}")
    assert resolve().tokenizer == baked
    assert resolve(TOKENIZER_NAME="org/tokenizer").tokenizer == baked
    assert resolve(TOKENIZER_NAME=str(own)).tokenizer == own


def test_a_baked_tokenizer_is_not_given_to_another_model(tmp_path, resolve):
    baked_folder(tmp_path / "baked/model")
    baked_folder(tmp_path / "baked/tokenizer", "org/tokenizer")
    folder = model_folder(tmp_path / "m")
    assert resolve(MODEL_NAME=str(folder)).tokenizer is None


def test_a_baked_draft_is_used_when_the_settings_ask_for_one(tmp_path, resolve):
    baked_folder(tmp_path / "baked/model")
    draft = baked_folder(tmp_path / "baked/draft", "org/draft")
    config = json.dumps({"model": "org/draft", "num_speculative_tokens": 3})
    assert resolve(SPECULATIVE_CONFIG=config).draft == draft
    assert resolve(SPECULATIVE_METHOD="draft").draft == draft
    assert resolve().draft is None


def test_a_draft_in_the_engines_json_is_found_like_a_model(tmp_path, resolve):
    folder = model_folder(tmp_path / "m")
    draft = cached_snapshot(tmp_path / "volume" / VOLUME_CACHE, "models--org--draft", "v1")
    config = json.dumps({"model": "org/draft", "revision": "v1"})
    assert resolve(MODEL_NAME=str(folder), SPECULATIVE_CONFIG=config).draft == draft
    with pytest.raises(ModelUnavailable, match=r"^SPECULATIVE_CONFIG='/none' is a path that "):
        resolve(MODEL_NAME=str(folder), SPECULATIVE_CONFIG='{"model": "/none"}')


@pytest.mark.parametrize(
    "environ",
    [
        {"TOKENIZER_NAME": "org/name"},
        {"SPECULATIVE_CONFIG": '{"model": "org/name", "method": "mtp"}'},
        {"SPECULATIVE_CONFIG": '{"model": "[ngram]", "method": "ngram"}'},
        {"SPECULATIVE_CONFIG": '{"model": null}'},
        {"SPECULATIVE_METHOD": "ngram"},
    ],
    ids=["own tokenizer", "own draft", "ngram model", "null model", "ngram"],
)
def test_a_baked_model_that_is_its_own_tokenizer_or_draft_needs_no_hub(tmp_path, resolve, environ):
    baked_folder(tmp_path / "baked/model", tokenizer_config__json="{}")
    assert resolve(**environ).is_local


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"SPECULATIVE_METHOD": "draft"},
            "SPECULATIVE_METHOD=draft needs a SPECULATIVE_MODEL, or an image that was built with a "
            "DRAFT_MODEL_NAME.",
        ),
        (
            {"SPECULATIVE_METHOD": "ngram", "SPECULATIVE_MODEL": "org/draft"},
            "SPECULATIVE_MODEL='org/draft' needs SPECULATIVE_METHOD=draft, eagle or eagle3; ngram "
            "uses no draft model.",
        ),
        (
            {"NUM_SPECULATIVE_TOKENS": "3"},
            "NUM_SPECULATIVE_TOKENS=3 needs a SPECULATIVE_METHOD: ngram, draft, eagle, eagle3 or "
            "mtp.",
        ),
        ({"SPECULATIVE_CONFIG": "[]"}, "SPECULATIVE_CONFIG='[]' must be a JSON object."),
        (
            {"SPECULATIVE_CONFIG": "{"},
            "SPECULATIVE_CONFIG='{' is not JSON: Expecting property "
            "name enclosed in double quotes: line 1 column 2 (char 1).",
        ),
    ],
    ids=["no draft model", "no use for it", "no method", "list", "broken"],
)
def test_settings_of_speculative_decoding_are_checked_together(tmp_path, resolve, environ, message):
    folder = model_folder(tmp_path / "m")
    with pytest.raises(InvalidSetting) as caught:
        resolve(MODEL_NAME=str(folder), **environ)
    assert str(caught.value) == message


@pytest.mark.parametrize("is_multimodal", [False, True], ids=["text", "multimodal"])
def test_a_draft_with_another_vocabulary_is_an_error(tmp_path, resolve, is_multimodal):
    model, draft = model_folder(tmp_path / "m"), model_folder(tmp_path / "draft")
    (model / "config.json").write_text('{"vocab_size": 49152}')
    config = {"vocab_size": 32000}
    (draft / "config.json").write_text(
        json.dumps({"text_config": config} if is_multimodal else config)
    )
    environ = {"MODEL_NAME": str(model), "SPECULATIVE_METHOD": "draft"}
    with pytest.raises(InvalidSetting) as caught:
        resolve(**environ, SPECULATIVE_MODEL=str(draft))
    assert str(caught.value) == (
        "draft: the draft model has a vocabulary of 32000 tokens, the model one of 49152: choose "
        "a draft model with the same vocabulary."
    )
    config = json.dumps({"model": str(draft), "use_heterogeneous_vocab": True})
    assert resolve(MODEL_NAME=str(model), SPECULATIVE_CONFIG=config).draft == draft


def test_an_adapter_may_not_have_the_models_name(tmp_path, resolve):
    folder = model_folder(tmp_path / "m")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    tensors = {"layers.0.q_proj.lora_A.weight": ("F32", [8, 64])}
    (adapter / "adapter_model.safetensors").write_bytes(safetensors_header(tensors) + bytes(2048))
    environ = {"MODEL_NAME": str(folder), "LORA_MODULES": f"m={adapter}"}
    with pytest.raises(InvalidSetting) as caught:
        resolve(**environ)
    assert str(caught.value) == "LORA_MODULES: 'm' is the model's name; choose another one."
    with pytest.raises(InvalidSetting) as caught:
        resolve(**environ | {"LORA_MODULES": f"small={adapter}", "SERVED_MODEL_NAME": "big,small"})
    assert str(caught.value) == "LORA_MODULES: 'small' is the model's name; choose another one."
