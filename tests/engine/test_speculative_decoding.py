"""Speculative decoding in a worker: the text stays the same, and the metrics have what it saved."""

import json
import re
import shutil
from contextlib import contextmanager

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


@contextmanager
def speculative_platform(**environ):
    """Run a worker that speculates, behind a platform."""
    with (
        running_platform() as platform,
        running_worker(
            platform,
            WORKER,
            worker_environment("bf16", VLLM_LOGGING_LEVEL="ERROR", **environ),
            ready_within_seconds=START_SECONDS,
        ),
    ):
        yield platform


def speculative_answers(**environ):
    """Return the answers of a worker that speculates."""
    with speculative_platform(**environ) as platform:
        return answers(platform)


CALLS = (
    '{"name": "find_city", "parameters": {"name": "Paris", "limit": 1}}; '
    '{"name": "find_city", "parameters": {"name": "Rome", "limit": 2}}'
)
TOOL = {"type": "object", "properties": {"name": {"type": "string"}, "limit": {"type": "integer"}}}
CALL_TWICE = {
    "messages": [{"role": "user", "content": f"Write: {CALLS}"}],
    "tools": [{"type": "function", "function": {"name": "find_city", "parameters": TOOL}}],
    "structured_outputs": {"regex": re.escape(CALLS)},
    "temperature": 0,
}


def tokenizer_of_llama(folder):
    """Write the demo model's tokenizer with the token that the parser llama3_json asks for."""
    shutil.copytree(MODELS / f"{NAME}-bf16", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text().replace("<jupyter_output>", "<|python_tag|>")
        (folder / name).write_text(text)
    return folder


def called(outputs):
    """Return name and arguments of each call in the chunks of a stream, or in a plain answer."""
    calls = {}
    for choice in (choice for output in outputs for choice in output["choices"]):
        found = choice.get("delta") or choice["message"]
        for number, call in enumerate(found.get("tool_calls") or ()):
            made = calls.setdefault(call.get("index", number), ["", ""])
            made[0] += call["function"].get("name") or ""
            made[1] += call["function"].get("arguments") or ""
    return [(name, json.loads(arguments)) for name, arguments in calls.values()]


@pytest.fixture
def greedy(queue_worker):
    """What the model writes without speculation."""
    texts, counts = answers(queue_worker.platform)
    assert counts == []
    return texts


def test_ngram_writes_the_same_and_reports_what_it_accepted(greedy, tmp_path):
    """A text that repeats itself is predicted well; streamed tool calls are those of the plain
    answer, with several tokens a step and few flushes."""
    with speculative_platform(
        SPECULATIVE_METHOD="ngram",
        TOOL_CALL_PARSER="llama3_json",
        ENABLE_AUTO_TOOL_CHOICE="true",
        TOKENIZER_NAME=str(tokenizer_of_llama(tmp_path / "tokenizer")),
        MAX_POSTS_PER_SECOND="0.5",
    ) as platform:
        texts, (drafted, accepted) = answers(platform)
        plain, streamed = (
            platform.wait(platform.submit({**CALL_TWICE, "stream": stream}), 120)
            for stream in (False, True)
        )
    assert texts == greedy
    assert drafted >= accepted >= 15
    cities = [("Paris", 1), ("Rome", 2)]
    expected = [("find_city", {"name": name, "limit": limit}) for name, limit in cities]
    assert called(plain.output) == called(streamed.output) == expected


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
