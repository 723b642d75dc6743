"""Embeddings, rerank and score: models that do not write, on both engines."""

import pytest

from runpod_local import JobState, running_platform, running_worker
from tests.support.checkpoints import tiny_bert, tiny_llama
from tests.support.environment import START_SECONDS, worker_command, worker_environment

TEXTS = ["Paris is a city.", "Bread is baked.", "Paris is a city."]


def ask(engine, folder, *job_inputs, **environ):
    """Return the jobs that a worker answers with a model that pools."""
    with (
        running_platform() as platform,
        running_worker(
            platform,
            worker_command(engine),
            worker_environment(engine=engine, MODEL_NAME=str(folder), **environ),
            ready_within_seconds=START_SECONDS,
        ),
    ):
        return [platform.wait(platform.submit(job), 60) for job in job_inputs]


def check_embeddings(job, size):
    assert job.state is JobState.COMPLETED, job.error
    [answer] = job.output
    first, second, third = (entry["embedding"] for entry in answer["data"])
    assert len(first) == size
    assert first == pytest.approx(third, abs=0.01)
    assert first != pytest.approx(second, abs=0.01)
    assert sum(value * value for value in first) == pytest.approx(1, abs=0.01)
    assert answer["model"] == "m"  # the folder's name, and nothing of its path


def check_rerank(job):
    """Documents come in the order of their scores, and the same text has the same score."""
    assert job.state is JobState.COMPLETED, job.error
    answer = job.output[0]
    results = answer["results"] if isinstance(answer, dict) else answer
    scores = [result.get("relevance_score", result.get("score")) for result in results]
    assert scores == sorted(scores, reverse=True)
    assert sorted(result["index"] for result in results) == [0, 1, 2]
    by_index = {result["index"]: score for result, score in zip(results, scores, strict=True)}
    assert by_index[0] == pytest.approx(by_index[2], abs=0.01)
    assert by_index[0] != pytest.approx(by_index[1], abs=0.0001)


EMBED = {"route": "embeddings", "body": {"input": TEXTS}}
RERANK = {"route": "rerank", "body": {"query": "Paris is a city.", "documents": TEXTS}}


def test_vllm_embeds_reranks_and_scores(tmp_path):
    """One model for the three; the query's own text is the most alike.

    TASK=embed is worker-vllm's name for RUNNER=pooling and CONVERT=embed.
    """
    score = {"route": "score", "body": {"text_1": TEXTS[0], "text_2": TEXTS}}
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    cohere = {"route": "/v2/rerank", "body": RERANK["body"]}
    texts = {"texts": TEXTS, "embedding_types": ["float"]}
    jobs = [EMBED, RERANK, score, chat, cohere, {"route": "/v2/embed", "body": texts}]
    jobs += [
        {"route": "/v2/embed", "body": {"images": ["http://169.254.169.254/x.png"]}},
        {"route": "pooling", "body": {"input": TEXTS}},
        {"route": "pooling", "body": {"data": {"url": "http://169.254.169.254/"}}},
    ]
    embedded, reranked, scored, chatted, *more = ask(
        "vllm", tiny_llama(tmp_path / "m"), *jobs, TASK="embed"
    )
    check_rerank(more[0])
    [vectors] = more[1].output[0]["embeddings"].values()
    assert vectors[0] == pytest.approx(embedded.output[0]["data"][0]["embedding"], abs=0.01)
    assert "169.254.169.254 is not a public address" in more[2].error
    assert len(more[3].output[0]["data"]) == 3
    assert "a plugin would fetch its URLs" in more[4].error
    check_embeddings(embedded, 64)
    check_rerank(reranked)
    scores = [entry["score"] for entry in scored.output[0]["data"]]
    assert scores == [pytest.approx(1, abs=0.01), scores[1], pytest.approx(1, abs=0.01)]
    assert scores[1] < 0.9
    assert "This model does not serve /v1/chat/completions." in chatted.error


def test_sglang_embeds(tmp_path):
    """RUNNER=pooling is its --is-embedding; /encode is its own route for the same."""
    own = {"route": "/encode", "body": {"text": TEXTS}}
    embedded, encoded = ask("sglang", tiny_llama(tmp_path / "m"), EMBED, own, RUNNER="pooling")
    check_embeddings(embedded, 64)
    [vectors] = encoded.output
    assert [each["embedding"] for each in vectors] == [
        entry["embedding"] for entry in embedded.output[0]["data"]
    ]


def test_sglang_reranks(tmp_path):
    """With a cross-encoder, which SGLang wants for it."""
    [reranked] = ask("sglang", tiny_bert(tmp_path / "m"), RERANK, RUNNER="pooling")
    check_rerank(reranked)


@pytest.mark.parametrize("endpoint", ["sglang"], indirect=True)
def test_sglang_scores_with_a_model_that_writes(endpoint):
    """Its score is the probability of given tokens after each item; vLLM's is for pooling."""
    body = {"query": "Paris is in", "items": [" France", " Peru"], "label_token_ids": [2, 28]}
    job = endpoint.run({"route": "score", "body": {**body, "apply_softmax": True}})
    assert job.state is JobState.COMPLETED, job.error
    assert [round(sum(scores), 3) for scores in job.output[0]["scores"]] == [1, 1]
