"""The metrics of a worker on the queue, and its drain on SIGTERM."""

import json
import re
import signal

import httpx
import psutil
import pytest

from runpod_local import JobState
from tests.support.expositions import value
from tests.support.processes import running

CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
STORY = {"prompt": "Once upon a time", "ignore_eos": True, "stream": True}


def scraped(worker):
    return httpx.get(f"http://127.0.0.1:{worker.metrics_port}/metrics", timeout=30).text


def test_the_metrics_of_a_job_and_of_the_port_are_the_same(queue_worker):
    """SGLang's several processes count in one exposition."""
    before = scraped(queue_worker)
    for _ in range(2):
        queue_worker.run({**CHAT, "max_tokens": 4, "stream": True})
    [of_job] = queue_worker.run({"route": "metrics"}).output
    for text in (scraped(queue_worker), of_job):

        def added(series, text=text):
            return value(text, f"llm_worker_{series}") - value(
                before, f"llm_worker_{series}", missing=0
            )

        assert added('requests_total{outcome="ok",route="/v1/chat/completions"}') == 2
        assert added('tokens_total{kind="completion"}') == 8
        assert added('posts_total{outcome="taken"}') >= 4
        assert added("post_bytes_total") > 1000
        assert added("time_to_first_token_seconds_count") == 2
        assert value(text, "llm_worker_engine_up") == 1
        assert 0 <= value(text, "llm_worker_kv_cache_usage_ratio") <= 1
        assert value(text, 'llm_worker_start_seconds{stage="imports"}') > 0
        assert f"\n{queue_worker.engine}:" in text
        families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
        assert sorted(families) == sorted(set(families))


def test_calls_that_come_in_one_flush(queue_worker):
    """Those of a stream are those of the plain answer, and those that the model wrote."""
    calls = [{"name": "find_city", "arguments": {name: 1}} for name in ("paris", "rome", "bari")]
    written = "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)
    request = {
        **CHAT,
        "tools": [{"type": "function", "function": {"name": "find_city", "parameters": {}}}],
        "max_tokens": 200,
        **queue_worker.constrained(written),
    }
    message = queue_worker.run(request).output[0]["choices"][0]["message"]
    assert [parsed(call["function"]) for call in message["tool_calls"]] == calls
    streamed = {}
    for chunk in queue_worker.run({**request, "stream": True}).output:
        for choice in chunk["choices"]:
            for part in choice["delta"].get("tool_calls") or []:
                call = streamed.setdefault(part["index"], {"name": "", "arguments": ""})
                for field in call:
                    call[field] += part["function"].get(field) or ""
    assert [parsed(call) for call in streamed.values()] == calls


def parsed(call):
    return {"name": call["name"], "arguments": json.loads(call["arguments"])}


@pytest.mark.ends_the_worker
def test_sigterm_lets_jobs_finish_and_leaves_nothing_behind(queue_worker):
    """Running jobs get their time, new ones are not taken, no process outlives the worker."""
    platform, process = queue_worker.platform, queue_worker.process
    chat = queue_worker.run({**CHAT, "temperature": 0})
    assert "Paris" in chat.output[0]["choices"][0]["message"]["content"]
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    tokens = {"vllm": 200, "sglang": 40}[queue_worker.engine]  # takes less than DRAIN_TIMEOUT
    job_id = platform.submit({**STORY, "max_tokens": tokens})
    platform.wait_until(job_id, lambda job: job.chunks, 30)
    taken_id = platform.submit({**STORY, "max_tokens": 5})
    platform.wait_until(taken_id, lambda job: job.state is not JobState.IN_QUEUE, 30)
    process.send_signal(signal.SIGTERM)
    late_id = platform.submit({**STORY, "max_tokens": 5})
    assert process.wait(60) == 0
    job = platform.job(job_id)
    assert job.state is JobState.COMPLETED
    assert job.output[-1]["usage"]["completion_tokens"] == tokens
    assert platform.job(taken_id).state is JobState.COMPLETED
    # The poll that was open at the signal may have brought the late job: then it was served.
    late = platform.job(late_id)
    assert late.state in (JobState.IN_QUEUE, JobState.COMPLETED)
    assert running(family) == []
