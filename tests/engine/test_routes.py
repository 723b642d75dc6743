"""Routes that only one engine has, as it answers them; what both have is in test_endpoint.py."""

import json
import re

import pytest

from runpod_local import JobState
from tests.support.conditions import wait_until

PROMPT = "The capital of France is"
GREEDY = {"temperature": 0, "max_new_tokens": 8}
QUESTIONS = {"big": {"type": "choice", "criteria": {"yes": None, "no": None}}}
IDLE = {"running": 0, "kv_cache_usage": 0}
STOP_TIMEOUT_SECONDS = 15.0

on_vllm = pytest.mark.parametrize("endpoint", ["vllm"], indirect=True)
on_sglang = pytest.mark.parametrize("endpoint", ["sglang"], indirect=True)


def answer(endpoint, route, body):
    job = endpoint.run({"route": route, "body": body})
    assert job.state is JobState.COMPLETED, job.error
    return job.output


def refusal(endpoint, route, body):
    return json.loads(endpoint.run({"route": route, "body": body}).error)["error"]


@on_sglang
def test_sglangs_own_route_plain_streamed_and_for_several_prompts(endpoint):
    """In its own format; a stream is SSE text whose last event has the whole text."""
    [plain] = answer(endpoint, "/generate", {"text": PROMPT, "sampling_params": GREEDY})
    assert plain["meta_info"]["completion_tokens"] == 8
    body = {"text": PROMPT, "sampling_params": GREEDY, "stream": True, "model": endpoint.model}
    *events, done, end = "".join(answer(endpoint, "/generate", body)).split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    last = json.loads(events[-1].removeprefix("data: "))
    assert (last["text"], last["meta_info"]["completion_tokens"]) == (plain["text"], 8)
    [both] = answer(endpoint, "/generate", {"text": [PROMPT, "One"], "sampling_params": GREEDY})
    assert [each["meta_info"]["completion_tokens"] for each in both] == [8, 8]
    counted = r"/generate 200 ok, \d+ tokens in \(\d+ cached\), 16 out"
    wait_until(lambda: re.search(counted, endpoint.log.read_text()))


@on_sglang
def test_sglangs_own_route_takes_an_adapter_by_its_name(endpoint):
    [plain] = answer(endpoint, "/generate", {"text": PROMPT, "sampling_params": GREEDY})
    for chosen in ({"lora_path": "org/other"}, {"model": "org/other"}):
        [own] = answer(endpoint, "/generate", {"text": PROMPT, "sampling_params": GREEDY} | chosen)
        assert own["text"] != plain["text"]
    error = refusal(endpoint, "/generate", {"text": PROMPT, "lora_path": "/etc"})
    assert error["message"] == "lora_path must name a LoRA adapter (org/other), got '/etc'."


@on_sglang
def test_errors_of_sglangs_own_route(endpoint):
    """The worker's, and the engine's."""
    error = refusal(endpoint, "/generate", {"text": "Hi", "http_worker_ipc": "ipc:///tmp/x"})
    assert error["message"] == "/generate does not accept the field 'http_worker_ipc'."
    error = refusal(endpoint, "/generate", {"text": "Hi", "image_data": "/etc/passwd"})
    assert error["message"] == "'/etc/passwd' must be an http or https URL."
    for body in ({"text": 7}, {"sampling_params": {}}, {"text": "Hi", "top_logprobs_num": "x"}):
        assert refusal(endpoint, "/generate", body)["code"] == 400, body


@on_sglang
def test_a_cancelled_job_of_sglangs_own_route_frees_its_blocks(endpoint):
    story = {"max_new_tokens": 4000, "ignore_eos": True}
    body = {"text": "Once upon a time", "sampling_params": story, "stream": True}
    job_id = endpoint.platform.submit({"route": "/generate", "body": body})
    endpoint.platform.wait_until(job_id, lambda job: len(job.chunks) > 0)
    endpoint.platform.cancel(job_id)
    wait_until(lambda: endpoint.engine_load() == IDLE, STOP_TIMEOUT_SECONDS)


@on_sglang
def test_sglang_decides(endpoint):
    """Typed questions, answered by the probabilities of their options."""
    question = {"id": "big", "type": "yes_no", "question": "Is Paris a city?"}
    [decided] = answer(endpoint, "/v1/decisions", {"input": "Paris", "questions": [question]})
    assert decided["answers"].keys() == {"big"}
    [decided] = answer(endpoint, "/v1/systemone", {"state": "Paris", "questions": QUESTIONS})
    assert decided["answers"].keys() == {"big"}


@on_vllm
def test_vllm_answers_several_conversations_at_once(endpoint, paris):
    """One request, as many choices as conversations."""
    chats = [[{"role": "user", "content": "What is the capital of France?"}]] * 2
    [done] = answer(endpoint, "chat/completions/batch", {"messages": chats, "temperature": 0})
    assert [choice["message"]["content"] for choice in done["choices"]] == [paris, paris]


@on_vllm
@pytest.mark.needs_a_model
def test_vllm_scores_with_a_model_that_writes(endpoint):
    body = {"query": "Paris is in", "items": [" France", " Peru"], "label_token_ids": [2, 28]}
    [scored] = answer(endpoint, "/generative_scoring", body)
    assert [each["index"] for each in scored["data"]] == [0, 1]
    error = refusal(endpoint, "/v1/systemone", {"state": "Paris", "questions": QUESTIONS})
    assert (error["code"], error["message"]) == (
        501,
        "The model does not support the structured decision API",
    )


@on_vllm
def test_a_route_of_the_other_engine(endpoint):
    error = refusal(endpoint, "/generate", {"text": "Hi"})
    assert (error["code"], error["message"]) == (404, "This model does not serve /generate.")
