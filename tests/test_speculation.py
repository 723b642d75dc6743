"""Speculative decoding: what a setting becomes with each engine, and the text that stays."""

import json
import re
from pathlib import Path

import pytest

from handler.engine import speculative
from handler.errors import InvalidSetting
from runpod_local import running_platform, running_worker
from tests.support.checkpoints import eagle_head
from tests.support.environment import MODELS, NAME, START_SECONDS, WORKER, worker_environment

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
def test_a_method_in_vllms_words(method, tokens, draft, config):
    """Its --speculative-config."""
    assert json.loads(speculative.vllm_config(method, tokens, draft, None)) == config


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
def test_a_method_in_sglangs_words(method, tokens, draft, flags):
    """Its speculative flags, which tests/contract gives to its parser."""
    expected = {f"SPECULATIVE_{name}": value for name, value in flags.items()}
    assert speculative.sglang_flags(method, tokens, draft, None) == expected


def test_none_is_none():
    """No speculation unless it is asked for."""
    assert speculative.vllm_config("none", None, None, None) is None
    assert speculative.sglang_flags("none", None, None, None) == {}


def test_the_engines_own_json_wins():
    """With the draft model by its folder."""
    vllm = '{"method": "eagle", "model": "org/head", "revision": "x"}'
    assert json.loads(speculative.vllm_config("ngram", 9, DRAFT, vllm)) == {
        "method": "eagle",
        "model": "/draft",
    }
    sglang = '{"algorithm": "EAGLE", "draft_model_path": "org/head", "num_steps": 3}'
    assert speculative.sglang_flags("ngram", 9, DRAFT, sglang) == {
        "SPECULATIVE_ALGORITHM": "EAGLE",
        "SPECULATIVE_DRAFT_MODEL_PATH": "/draft",
        "SPECULATIVE_NUM_STEPS": "3",
    }
    with pytest.raises(
        InvalidSetting, match=r"^SPECULATIVE_CONFIG: 'method' is vLLM's\. SGLang's are"
    ):
        speculative.sglang_flags("none", None, None, vllm)


REPEAT = {"prompt": "one two three four one two three four one two three", "max_tokens": 40}
TELL = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}


def answers(**environ):
    """Return the greedy texts of a worker, and how many tokens it drafted and accepted."""
    with (
        running_platform() as platform,
        running_worker(
            platform,
            WORKER,
            worker_environment("bf16", VLLM_LOGGING_LEVEL="ERROR", **environ),
            ready_within_seconds=START_SECONDS,
        ),
    ):
        texts = []
        for job_input in (REPEAT, TELL):
            job = platform.wait(platform.submit({**job_input, "temperature": 0}), 120)
            choice = job.output[0]["choices"][0]
            texts.append(choice.get("text") or choice["message"]["content"])
        metrics = platform.wait(platform.submit({"route": "metrics"}), 30).output[0]
    counts = [
        int(float(found[1]))
        for name in ("draft", "accepted")
        if (
            found := re.search(
                rf"^vllm:spec_decode_num_{name}_tokens_total{{.*}} (\S+)$", metrics, re.M
            )
        )
    ]
    return texts, counts


@pytest.fixture(scope="module")
def greedy():
    """What the model writes without speculative."""
    texts, counts = answers()
    assert counts == []
    return texts


def test_ngram_writes_the_same_and_reports_what_it_accepted(greedy):
    """A text that repeats itself is guessed well."""
    texts, (drafted, accepted) = answers(SPECULATIVE_METHOD="ngram")
    assert texts == greedy
    assert drafted >= accepted >= 15


def test_a_draft_model_writes_the_same_and_reports_what_it_accepted(greedy):
    """The quantized model drafts for the one that it was made from."""
    texts, (drafted, accepted) = answers(
        SPECULATIVE_METHOD="draft",
        SPECULATIVE_MODEL=str(MODELS / f"{NAME}-awq"),
        NUM_SPECULATIVE_TOKENS="3",
    )
    assert texts == greedy
    assert drafted >= accepted >= 15


def test_eagle_writes_the_same_and_reports_what_it_accepted(greedy, tmp_path):
    """This head knows little: what it drafts is refused, and the text is the model's."""
    texts, (drafted, accepted) = answers(
        SPECULATIVE_METHOD="eagle", SPECULATIVE_MODEL=str(eagle_head(tmp_path / "head"))
    )
    assert texts == greedy
    assert drafted > 15
    assert accepted <= drafted
