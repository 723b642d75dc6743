"""The settings of speculative decoding, and the draft model that they name."""

import json

import pytest

from handler.environ import load
from handler.errors import InvalidSetting
from handler.model.resolve import locate
from tests.checkpoints import tiny_llama
from tests.support.environment import MODELS, NAME


@pytest.mark.parametrize(
    ("environ", "settings"),
    [
        (
            {"SPECULATIVE_ALGORITHM": "STANDALONE", "SPECULATIVE_DRAFT_MODEL_PATH": "org/draft"},
            ("draft", "org/draft", None),
        ),
        (
            {"SPEC_METHOD": "draft_model", "SPEC_MODEL": "org/draft", "SPEC_TOKENS": "5"},
            ("draft", "org/draft", 5),
        ),
        ({"SPECULATIVE_ALGORITHM": "NEXTN"}, ("mtp", None, None)),
    ],
    ids=["sglang", "vllm", "mtp"],
)
def test_both_engines_names_are_accepted(environ, settings):
    """Their draft model is resolved, fetched and checked like that of SPECULATIVE_MODEL."""
    made = load(environ)
    assert (
        made.speculative_method,
        made.speculative_model,
        made.num_speculative_tokens,
    ) == settings


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
            "has no model of its own.",
        ),
        (
            {"NUM_SPECULATIVE_TOKENS": "3"},
            "NUM_SPECULATIVE_TOKENS=3 needs a SPECULATIVE_METHOD: ngram, draft, eagle, eagle3 or "
            "mtp.",
        ),
        (
            {"SPECULATIVE_METHOD": "medusa"},
            "SPECULATIVE_METHOD='medusa' should be 'none', 'ngram', 'draft', 'eagle', 'eagle3' or "
            "'mtp'.",
        ),
        ({"SPECULATIVE_CONFIG": "[]"}, "SPECULATIVE_CONFIG='[]' should be a JSON object."),
    ],
    ids=["no model", "a model too many", "no method", "unknown", "no object"],
)
def test_settings_that_do_not_go_together(tmp_path, environ, message):
    """They stop the start, with what is missing."""
    environ["MODEL_NAME"] = str(MODELS / f"{NAME}-bf16")
    with pytest.raises(InvalidSetting) as caught:
        locate(load(environ), tmp_path)
    assert str(caught.value) == message


@pytest.mark.parametrize("nested", [False, True], ids=["text", "multimodal"])
def test_a_draft_with_another_vocabulary_is_refused_before_the_weights_load(tmp_path, nested):
    """With both sizes; a multimodal model has its size in a part of its configuration."""
    folder = tiny_llama(tmp_path / "draft", vocab_size=32000)
    if nested:
        config = {"text_config": json.loads((folder / "config.json").read_text())}
        (folder / "config.json").write_text(json.dumps(config))
    environ = {
        "MODEL_NAME": str(MODELS / f"{NAME}-bf16"),
        "SPECULATIVE_METHOD": "draft",
        "SPECULATIVE_MODEL": str(folder),
    }
    with pytest.raises(InvalidSetting) as caught:
        locate(load(environ), tmp_path)
    assert str(caught.value) == (
        "draft: the draft model has a vocabulary of 32000 tokens and the model one of 49152: "
        "take a draft model with as many."
    )
