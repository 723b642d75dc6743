"""The flags of each engine for a speculative method."""

import json
from pathlib import Path

import pytest

from handler.engine.flags.speculative import sglang_flags, vllm_config
from handler.errors import InvalidSetting

DRAFT = Path("/draft")


@pytest.mark.parametrize(
    ("method", "tokens", "draft", "config"),
    [
        (
            "ngram",
            None,
            None,
            {
                "method": "ngram",
                "num_speculative_tokens": 4,
                "prompt_lookup_min": 2,
                "prompt_lookup_max": 4,
            },
        ),
        (
            "draft",
            6,
            DRAFT,
            {"method": "draft_model", "num_speculative_tokens": 6, "model": "/draft"},
        ),
        (
            "eagle3",
            None,
            DRAFT,
            {"method": "eagle3", "num_speculative_tokens": 3, "model": "/draft"},
        ),
        ("mtp", None, None, {"method": "mtp", "num_speculative_tokens": 1}),
    ],
    ids=["ngram", "draft", "eagle3", "mtp"],
)
def test_a_method_becomes_vllms_speculative_config(method, tokens, draft, config):
    assert json.loads(vllm_config(method, tokens, draft, None)) == config


@pytest.mark.parametrize(
    ("method", "tokens", "draft", "flags"),
    [
        ("ngram", 5, None, {"ALGORITHM": "NGRAM", "NUM_DRAFT_TOKENS": "6"}),
        (
            "draft",
            None,
            DRAFT,
            {
                "ALGORITHM": "STANDALONE",
                "NUM_STEPS": "4",
                "EAGLE_TOPK": "1",
                "NUM_DRAFT_TOKENS": "5",
                "DRAFT_MODEL_PATH": "/draft",
            },
        ),
        (
            "eagle3",
            2,
            DRAFT,
            {
                "ALGORITHM": "EAGLE3",
                "NUM_STEPS": "2",
                "EAGLE_TOPK": "1",
                "NUM_DRAFT_TOKENS": "3",
                "DRAFT_MODEL_PATH": "/draft",
            },
        ),
        (
            "mtp",
            None,
            None,
            {
                "ALGORITHM": "NEXTN",
                "NUM_STEPS": "1",
                "EAGLE_TOPK": "1",
                "NUM_DRAFT_TOKENS": "2",
            },
        ),
    ],
    ids=["ngram", "draft", "eagle3", "mtp"],
)
def test_a_method_becomes_sglangs_flags(method, tokens, draft, flags):
    """tests/contract gives them to its parser."""
    expected = {f"SPECULATIVE_{name}": value for name, value in flags.items()}
    assert sglang_flags(method, tokens, draft, None) == expected


def test_the_method_none_needs_no_flags():
    assert vllm_config("none", None, None, None) is None
    assert sglang_flags("none", None, None, None) == {}


def test_speculative_config_wins_over_the_method():
    """With the folder of the draft model."""
    vllm = '{"method": "eagle", "model": "org/head", "revision": "x"}'
    assert json.loads(vllm_config("ngram", 9, DRAFT, vllm)) == {
        "method": "eagle",
        "model": "/draft",
    }
    sglang = '{"algorithm": "EAGLE", "draft_model_path": "org/head", "num_steps": 3}'
    assert sglang_flags("ngram", 9, DRAFT, sglang) == {
        "SPECULATIVE_ALGORITHM": "EAGLE",
        "SPECULATIVE_DRAFT_MODEL_PATH": "/draft",
        "SPECULATIVE_NUM_STEPS": "3",
    }
    with pytest.raises(
        InvalidSetting, match=r"^SPECULATIVE_CONFIG: 'method' is a field of vLLM\. SGLang has"
    ):
        sglang_flags("none", None, None, vllm)
