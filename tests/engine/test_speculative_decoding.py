"""Speculative decoding in a worker: the text stays the same, and the metrics have what it saved."""

import re

import pytest

from runpod_local import running_platform, running_worker
from tests.support.checkpoints import eagle_head
from tests.support.environment import MODELS, NAME, START_SECONDS, WORKER, worker_environment

pytestmark = pytest.mark.parametrize("queue_worker", ["vllm"], indirect=True)

REPEAT = {"prompt": "one two three four one two three four one two three", "max_tokens": 40}
TELL = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}


def answers(platform):
    """Return a worker's greedy texts, and how many tokens it drafted and accepted."""
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


def speculative_answers(**environ):
    """Return the same of a worker that speculates."""
    with (
        running_platform() as platform,
        running_worker(
            platform,
            WORKER,
            worker_environment("bf16", VLLM_LOGGING_LEVEL="ERROR", **environ),
            ready_within_seconds=START_SECONDS,
        ),
    ):
        return answers(platform)


@pytest.fixture
def greedy(queue_worker):
    """What the model writes without speculation."""
    texts, counts = answers(queue_worker.platform)
    assert counts == []
    return texts


def test_ngram_writes_the_same_and_reports_what_it_accepted(greedy):
    """A text that repeats itself is predicted well."""
    texts, (drafted, accepted) = speculative_answers(SPECULATIVE_METHOD="ngram")
    assert texts == greedy
    assert drafted >= accepted >= 15


def test_a_draft_model_writes_the_same_and_reports_what_it_accepted(greedy):
    """The quantized model drafts for the one that it was made from."""
    texts, (drafted, accepted) = speculative_answers(
        SPECULATIVE_METHOD="draft",
        SPECULATIVE_MODEL=str(MODELS / f"{NAME}-awq"),
        NUM_SPECULATIVE_TOKENS="3",
    )
    assert texts == greedy
    assert drafted >= accepted >= 15


def test_eagle_writes_the_same_and_reports_what_it_accepted(greedy, tmp_path):
    """This head is not trained: its drafts are rejected, and the text stays the same."""
    texts, (drafted, accepted) = speculative_answers(
        SPECULATIVE_METHOD="eagle", SPECULATIVE_MODEL=str(eagle_head(tmp_path / "head"))
    )
    assert texts == greedy
    assert drafted > 15
    assert accepted <= drafted
