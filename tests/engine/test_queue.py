"""Jobs on the queue: native input, errors, cancellation, faults of the platform, large answers."""

import json
import re

import pytest

from handler.request.json_text import MAX_NESTING
from runpod_local import JobState
from tests.engine.conftest import ANSWERS
from tests.support.client_bodies import CLIENT_BODIES
from tests.support.conditions import wait_until
from tests.support.environment import IS_SIMULATED
from tests.support.processes import arguments, running

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
STORY = {"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": True}
IDLE = {"running": 0, "kv_cache_usage": 0}
# The SDK gets a stop signal up to a second late: it pauses after a poll that brought nothing. A
# story takes longer than this.
STOP_TIMEOUT_SECONDS = 15.0


def error_of(job):
    assert job.state is JobState.FAILED
    return json.loads(job.error)["error"]


def test_a_native_chat_with_top_level_fields(endpoint):
    """A temperature beside messages counts; the answer is one OpenAI object."""
    job = endpoint.run({"messages": QUESTION, "temperature": 0, "max_tokens": 4})
    assert job.state is JobState.COMPLETED
    [answer] = job.output
    assert answer["choices"][0]["message"]["content"] == "The capital of France"
    assert answer["usage"]["completion_tokens"] == 4


def test_a_native_stream_yields_merged_objects(endpoint, paris):
    """Objects, not SSE text; together they are the whole answer, with usage."""
    job = endpoint.run({"messages": QUESTION, "temperature": 0, "stream": True})
    deltas = [choice["delta"] for chunk in job.output for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == paris
    assert {chunk["object"] for chunk in job.output} == {"chat.completion.chunk"}
    assert job.output[-1]["usage"]["completion_tokens"] == ANSWERS[endpoint.engine][1]


def test_a_slow_platform_gets_fewer_larger_chunks(endpoint):
    """While a POST is under way the worker merges what the engine writes."""
    endpoint.platform.post_delay_seconds = 2
    try:
        job = endpoint.run({**STORY, "max_tokens": 60})
    finally:
        endpoint.platform.post_delay_seconds = 0
    assert job.output[-1]["usage"]["completion_tokens"] == 60
    assert len(job.chunks) < 30


def test_a_prompt_through_the_chat_template(endpoint, paris):
    """apply_chat_template, as other workers have it."""
    job = endpoint.run(
        {
            "prompt": QUESTION[0]["content"],
            "apply_chat_template": True,
            "sampling_params": {"temperature": 0, "max_tokens": 32},
        }
    )
    assert job.output[0]["choices"][0]["message"]["content"] == paris


def test_bodies_of_clients_are_answered(endpoint):
    """As the clients send them; no stream has an error in it."""
    failed = {}
    for client, (path, body) in CLIENT_BODIES.items():
        if IS_SIMULATED and body.get("logprobs"):
            continue  # nothing is sampled
        data = {"openai_route": path, "openai_input": {**body, "model": endpoint.model}}
        job = endpoint.run(data)
        text = "".join(output for output in job.output or [] if isinstance(output, str))
        if job.state is not JobState.COMPLETED or re.search(r'"error": ?{', text):
            failed[client] = job.error or job.output
    assert failed == {}


@pytest.mark.parametrize(
    ("constraint", "answers"),
    [
        ({"guided_choice": ["Lyon.", "Nice (06)"]}, {"Lyon.", "Nice (06)"}),
        ({"guided_regex": "Lyon|Nice"}, {"Lyon", "Nice"}),
        ({"guided_grammar": 'root ::= "Lyon" | "Nice"'}, {"Lyon", "Nice"}),
        (
            {"guided_json": {"const": "Lyon"}, "guided_decoding_backend": "outlines"},
            {'"Lyon"'},
        ),
        ({"regex": "Lyon|Nice"}, {"Lyon", "Nice"}),
        ({"structured_outputs": {"choice": ["Lyon", "Nice"]}}, {"Lyon", "Nice"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("native", [False, True], ids=["OpenAI", "native"])
def test_either_engines_constraints_hold(endpoint, native, constraint, answers):
    """Also those that vLLM has removed, and would ignore."""
    body = {"messages": QUESTION, "max_tokens": 16, **constraint}
    job = endpoint.run(body if native else {"openai_input": body})
    assert job.state is JobState.COMPLETED, job.error
    assert job.output[0]["choices"][0]["message"]["content"] in answers


def test_values_that_clients_send_by_default(endpoint, paris):
    """Both engines would refuse some of them; top_p 0 is the most probable token."""
    body = {
        "messages": QUESTION,
        "tools": [],
        "tool_choice": "auto",
        "stop": "",
        "stream_options": {"include_usage": True},
        "frequency_penalty": None,
        "n": None,
        "top_p": 0,
    }
    job = endpoint.run({"openai_route": "/v1/chat/completions", "openai_input": body})
    assert job.state is JobState.COMPLETED, job.error
    assert job.output[0]["choices"][0]["message"]["content"] == paris


def test_a_native_prompt_without_a_limit_goes_on(endpoint):
    """Past the 16 tokens of the engine's default; the log says so."""
    story = {name: value for name, value in STORY.items() if name != "max_tokens"}
    job_id = endpoint.platform.submit(story)

    def is_long(job):
        texts = [choice["text"] for chunk in job.chunks for choice in chunk.output["choices"]]
        return len("".join(texts).split()) > 40

    endpoint.platform.wait_until(job_id, is_long, 30)
    endpoint.platform.cancel(job_id)
    wait_until(lambda: endpoint.engine_load() == IDLE, STOP_TIMEOUT_SECONDS)
    line = "a prompt without max_tokens may fill the context of 8192 tokens"
    assert endpoint.log.read_text().count(line) == 1


def test_the_native_input_of_worker_sglang(endpoint):
    """SGLang's own names, with either engine; the output is an OpenAI object."""
    job = endpoint.run({"text": "One, two,", "sampling_params": {"max_new_tokens": 4}})
    assert job.state is JobState.COMPLETED, job.error
    assert job.output[0]["usage"]["completion_tokens"] == 4


def call_of(levels):
    """Return a chat with a past tool call whose arguments are nested."""
    arguments = '{"a": ' * levels + "1" + "}" * levels
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    past = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ]
    return {"messages": [*QUESTION, *past, *QUESTION], "max_tokens": 4}


def test_deep_json_is_answered_or_refused(endpoint):
    """What passes the worker's limit, the engine's code can render; the rest is a 400."""
    job = endpoint.run({"openai_input": call_of(MAX_NESTING)})
    assert job.state is JobState.COMPLETED, job.error
    error = error_of(endpoint.run({"openai_input": call_of(900)}))
    assert (error["code"], error["param"]) == (400, "messages")
    schema = {"type": "string"}
    for _ in range(MAX_NESTING // 2 - 4):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    for more in ({"guided_json": schema}, {"tools": [tool], "tool_choice": "required"}):
        job = endpoint.run({"openai_input": {"messages": QUESTION, "max_tokens": 4, **more}})
        assert job.state is JobState.COMPLETED or error_of(job)["code"] == 400


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_spelled_out_route(endpoint, stream, paris):
    """route and body; a stream is SSE text as on the OpenAI route."""
    body = {"messages": QUESTION, "temperature": 0, "stream": stream}
    job = endpoint.run({"route": "/v1/chat/completions", "body": body})
    if stream:
        events = "".join(job.output).split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        assert {type(output) for output in job.output} == {str}
    else:
        assert job.output[0]["choices"][0]["message"]["content"] == paris


def test_tokens_there_and_back(endpoint):
    """tokenize and detokenize."""
    tokens = endpoint.run({"route": "tokenize", "body": {"prompt": "日本 🦙"}}).output[0]["tokens"]
    back = endpoint.run({"route": "detokenize", "body": {"tokens": tokens}})
    field = {"vllm": "prompt", "sglang": "text"}[endpoint.engine]
    assert back.output == [{field: "日本 🦙"}]


def test_health_and_version(endpoint):
    """GET routes of the engine's app, whose answer may be empty."""
    assert endpoint.run({"route": "health"}).output == [{"status": "ok"}]
    version = {"vllm": "0.32.0", "sglang": "0.5.23"}[endpoint.engine]
    assert endpoint.run({"route": "version"}).output == [{"version": version}]


@pytest.mark.parametrize(
    ("job_input", "code", "message"),
    [
        ("Hi", 400, "input must be a JSON object, got a string."),
        ([], 400, "input must be a JSON object, got a list."),
        (
            {"messages": QUESTION, "temprature": 0},
            400,
            "The engine has no field 'temprature' on /v1/chat/completions: "
            "did you mean 'temperature'?",
        ),
        (
            {"messages": QUESTION, "model": "gpt-4"},
            404,
            "The model `gpt-4` does not exist. Models: ",
        ),
    ],
    ids=["text", "list", "misspelt", "model"],
)
def test_a_failure_is_a_failed_job_with_an_openai_error(endpoint, job_input, code, message):
    """Not a repr, and not a COMPLETED job that says error."""
    error = error_of(endpoint.run(job_input))
    assert error["message"].removesuffix(f"{endpoint.model}, org/other.") == message
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}


ENGINES_WORDS = {
    "vllm": {
        "pooling": (404, "This model does not serve /v1/rerank."),
        "length": (
            400,
            "max_tokens=9000 cannot be greater than max_model_len=8192. Please request fewer "
            "output tokens. (parameter=max_tokens, value=9000)",
        ),
    },
    "sglang": {
        "pooling": (
            400,
            "This model does not appear to be an embedding model by default. Please add "
            "RUNNER=pooling when launching the server or try another model.",
        ),
        "length": (
            400,
            "Requested token count exceeds the model's maximum context length of 8192 tokens. You "
            "requested a total of 9001 tokens: 1 tokens from the input messages and 9000 tokens "
            "for the completion. Please reduce the number of tokens in the input messages or the "
            "completion to fit within the limit.",
        ),
    },
}


@pytest.mark.parametrize(
    ("job_input", "kind"),
    [
        ({"route": "rerank", "body": {"query": "a", "documents": ["b"]}}, "pooling"),
        ({"prompt": "Hi", "max_tokens": 9000, "stream": True}, "length"),
    ],
    ids=["pooling", "length"],
)
def test_what_an_engine_refuses_has_its_words(endpoint, job_input, kind):
    """They differ between the engines; the form does not."""
    error = error_of(endpoint.run(job_input))
    assert (error["code"], error["message"]) == ENGINES_WORDS[endpoint.engine][kind]
    assert set(error) == {"message", "type", "param", "code"}


def test_no_error_shows_the_inside(endpoint):
    """No traceback, no path, no token, whatever is asked."""
    wrong = [
        {"messages": "no list"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": 1}]}]},
        {"prompt": {"a": 1}},
        {"route": "chat/completions", "body": {"messages": QUESTION, "logit_bias": {"x": "y"}}},
        {"openai_route": "/v1/responses", "openai_input": {"previous_response_id": "none"}},
        {"prompt": "a", "structured_outputs": {"regex": "("}},
        {"prompt": "a" * 200_000},
        {"prompt": "a", "\ud800": 1},
        {"route": "models", "x\ud800": 1},
    ]
    for job_input in wrong:
        error = error_of(endpoint.run(job_input))
        text = json.dumps(error)
        assert 400 <= error["code"] < 500, error
        for inside in ("Traceback", "site-packages", "/handler/", "hf_not_to_be_seen"):
            assert inside not in text


def test_jobs_at_once_are_batched(endpoint):
    """Eight stories take far less than eight times one: nothing blocks in between."""
    platform = endpoint.platform

    async def submit_all():
        return [platform.state.submit({**STORY, "max_tokens": 100}).id for _ in range(8)]

    jobs = [platform.wait(name, 300) for name in platform.run_in_loop(submit_all())]
    assert [job.output[-1]["usage"]["completion_tokens"] for job in jobs] == [100] * 8
    first_tokens = [job.chunks[0].arrived_at for job in jobs]
    assert max(first_tokens) < min(job.finished_at for job in jobs)


@pytest.mark.parametrize(
    "job_input",
    [
        STORY,
        {**STORY, "stream": False},
        {
            "openai_route": "/v1/chat/completions",
            "openai_input": {"messages": QUESTION, "stream": True, "n": 2, "min_tokens": 4000},
        },
        pytest.param(
            {
                "openai_route": "/v1/messages",
                "openai_input": {
                    "messages": [{"role": "user", "content": "Write a very long story."}],
                    "max_tokens": 4000,
                    "stream": True,
                },
            },
            marks=pytest.mark.needs_a_model,
        ),
    ],
    ids=["native stream", "plain", "openai n=2", "anthropic"],
)
def test_a_cancelled_job_frees_its_blocks(endpoint, job_input):
    """Soon nothing of it runs, and other jobs go on."""
    job_id = endpoint.platform.submit(job_input)
    endpoint.platform.wait_until(job_id, lambda job: job.state is JobState.IN_PROGRESS, 30)
    endpoint.run({"prompt": "Hi", "max_tokens": 1})  # sent after it: by now both were in the engine
    other = endpoint.platform.submit({**STORY, "max_tokens": 40})
    endpoint.platform.cancel(job_id)
    finished = endpoint.platform.wait(other, 60)
    assert finished.output[-1]["usage"]["completion_tokens"] == 40
    assert endpoint.platform.job(job_id).state is JobState.CANCELLED
    wait_until(lambda: endpoint.engine_load() == IDLE, STOP_TIMEOUT_SECONDS)


def test_a_job_cancelled_before_it_began_does_not_run(endpoint):
    """The SDK forgets such a stop; the worker does not."""
    for _ in range(3):
        job_id = endpoint.platform.submit(STORY)
        endpoint.platform.wait_until(job_id, lambda job: job.state is JobState.IN_PROGRESS, 30)
        endpoint.platform.cancel(job_id)
    wait_until(lambda: endpoint.engine_load() == IDLE, STOP_TIMEOUT_SECONDS)


def test_two_refusals_of_the_platform_lose_nothing(endpoint, paris):
    """The SDK tries each POST three times."""
    endpoint.platform.faults.fail("stream", status=500, times=2)
    job = endpoint.run({"messages": QUESTION, "temperature": 0, "stream": True})
    assert endpoint.platform.faults.remaining("stream") == 0
    text = "".join(c["delta"].get("content") or "" for out in job.output for c in out["choices"])
    assert text == paris
    assert [chunk.output for chunk in job.chunks] == job.output


def test_a_broken_connection_loses_nothing(endpoint, paris):
    """The SDK alone would lose the chunk: see tests/contract/test_runpod.py."""
    endpoint.platform.faults.drop("stream")
    job = endpoint.run({"messages": QUESTION, "temperature": 0, "stream": True})
    assert endpoint.platform.faults.remaining("stream") == 0
    text = "".join(c["delta"].get("content") or "" for out in job.output for c in out["choices"])
    assert text == paris
    assert [chunk.output for chunk in job.chunks] == job.output


LARGE = {"prompt": [100] * 1000, "max_tokens": 1, "echo": True, "logprobs": 50}


@pytest.mark.needs_a_model
def test_a_large_stream_is_split_under_the_limit(endpoint):
    """One event of over 1 MB: the pieces fit, and make it up again."""
    body = {**LARGE, "stream": True}
    job = endpoint.run({"openai_route": "/v1/completions", "openai_input": body})
    assert job.rejected_chunk_bytes == []
    assert max(chunk.body_bytes for chunk in job.chunks) <= 1_000_000
    text = "".join(job.output)
    assert len(text) > 1_200_000
    events = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    assert events[-1] == "[DONE]"
    tokens = [json.loads(event)["choices"][0]["logprobs"]["tokens"] for event in events[:-1]]
    assert sum(len(some) for some in tokens) == 1001


@pytest.mark.needs_a_model
def test_a_large_plain_answer_arrives_with_the_end_of_the_job(endpoint):
    """The stream refuses it whole; the job's result has no such limit."""
    job = endpoint.run(LARGE)
    assert job.state is JobState.COMPLETED
    assert len(job.output[0]["choices"][0]["logprobs"]["tokens"]) == 1001
    assert job.done_bytes > 1_200_000


def test_a_batch_has_the_results_that_its_lines_have_alone(endpoint, paris):
    """In their order, with one line broken; the platform sees how far it is, and then its end."""
    chat = {"messages": QUESTION, "temperature": 0, "max_tokens": 32}
    bodies = {
        "chat": ("/v1/chat/completions", chat),
        "broken": ("/v1/admin", chat),
        "text": ("/v1/completions", {"prompt": "One, two,", "temperature": 0, "max_tokens": 4}),
        "refused": ("/v1/completions", {"prompt": "Hi", "max_tokens": 9000}),
    }
    requests = [
        {"custom_id": name, "method": "POST", "url": url, "body": body}
        for name, (url, body) in bodies.items()
    ]
    job = endpoint.run({"batch": {"requests": requests}})
    assert job.state is JobState.COMPLETED
    [output] = job.output
    assert output["batch"] == {"total": 4, "completed": 2, "failed": 2} == job.progress[-1]
    assert job.late_posts == []
    results = {result["custom_id"]: result for result in output["results"]}
    assert list(results) == list(bodies)
    answer = results["chat"]["response"]["body"]
    assert answer["choices"][0]["message"]["content"] == paris
    url, body = bodies["text"]
    alone = endpoint.run({"route": url, "body": body}).output[0]
    both = (alone, results["text"]["response"]["body"])
    assert len({each["choices"][0]["text"] for each in both}) == 1
    assert results["broken"]["error"]["code"] == "invalid_url"
    assert results["refused"]["response"]["status_code"] == 400
    log = endpoint.log.read_text()
    assert f"[{job.id}/text] /v1/completions 200 ok, " in log
    assert f"[{job.id}] batch 200 ok, " in log


def test_a_cancelled_batch_frees_its_blocks(endpoint):
    """All lines that run are aborted, and no other is sent."""
    body = {**STORY, "stream": False}
    requests = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}
        for number in range(50)
    ]
    job_id = endpoint.platform.submit({"batch": {"requests": requests}})
    endpoint.platform.wait_until(job_id, lambda job: job.progress, 30)
    endpoint.platform.cancel(job_id)
    wait_until(lambda: endpoint.engine_load() == IDLE, STOP_TIMEOUT_SECONDS)
    assert endpoint.platform.job(job_id).state is JobState.CANCELLED


def test_the_worker_listens_on_nothing(endpoint):
    """In queue mode it only calls out."""
    listening = [c for c in endpoint.process.net_connections() if c.status == "LISTEN"]
    assert listening == []  # SGLang's scheduler, another process, has a port for its ranks


def test_the_token_is_in_no_argument_and_no_log(endpoint):
    """Neither of the worker nor of the engine's processes."""
    for process in (endpoint.process, *endpoint.process.children(recursive=True)):
        assert "hf_not_to_be_seen" not in arguments(process)
    assert "hf_not_to_be_seen" not in endpoint.log.read_text()


def test_as_many_jobs_at_once_as_the_engine_can_batch(endpoint):
    """MAX_CONCURRENCY=auto: the KV cache holds 46,603 or 16,384 tokens, in requests of 1,024."""
    jobs = {"vllm": 45, "sglang": 16}[endpoint.engine]
    assert f"ready for {jobs} jobs at once" in endpoint.log.read_text()


STAGES = {
    "vllm": [
        *("configuration", "fork", "imports of the rank", "device", "weights"),
        *("compile and measure memory", "KV cache", "graphs", "app"),
    ],
    "sglang": ["engine's processes", "weights", "KV cache"],
}


def test_the_start_is_told_stage_by_stage(endpoint):
    """The log's table and the metrics say the same; what the engine says is within its start."""
    [text] = endpoint.run({"route": "metrics"}).output
    found = re.findall(r'^llm_worker_start_(\w+){stage="(.+)"} (\S+)$', text, re.MULTILINE)
    shown = {(what, stage): float(value) for what, stage, value in found}
    seconds = {stage: value for (what, stage), value in shown.items() if what == "seconds"}
    began = {stage: value for (what, stage), value in shown.items() if what == "offset_seconds"}
    own = ["interpreter", "model", "imports", "flags", "engine", "SDK", "warm-up", "first take"]
    inner = STAGES[endpoint.engine]
    assert seconds.keys() == began.keys() == {*own, *inner}
    ends = {stage: began[stage] + seconds[stage] for stage in began}
    assert sorted(inner, key=began.__getitem__) == inner
    assert began["engine"] <= began[inner[0]] <= max(ends[stage] for stage in inner)
    assert max(ends[stage] for stage in inner) <= ends["engine"] + 0.01
    table = endpoint.log.read_text().split("the start took ")[1].splitlines()
    total = float(table[0].split()[0])
    assert total == pytest.approx(max(ends.values()), abs=0.01)
    middle = next(index for index, line in enumerate(table) if "of it, or beside it" in line)
    steps, others = (
        [line.split(maxsplit=2)[2].rsplit(maxsplit=2) for line in lines]
        for lines in (table[2:middle], table[middle + 1 : middle + 3])
    )
    names = {name.strip() for name, _, _ in steps + others}
    assert {name for name in names if not name.startswith("before ")} == seconds.keys()
    assert {name.strip() for name, _, _ in others} == {"engine", "SDK"}
    assert sum(float(took) for _, _, took in steps) == pytest.approx(total, abs=0.01 * len(steps))


def test_the_very_first_job_hits_the_cache(endpoint):
    """Whole blocks with vLLM, every shared token with SGLang."""
    usage = endpoint.first_job.output[0]["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert (usage["prompt_tokens"], cached) == PREFIX_TOKENS[endpoint.engine]
    [line] = [line for line in endpoint.log.read_text().splitlines() if " prefix 1: " in line]
    assert line.split(" prefix 1: ")[1].startswith(PREFILLED[endpoint.engine])


# Prompt, cached. A block of vLLM has 16 tokens on a GPU, 128 on a CPU.
PREFIX_TOKENS = {"vllm": (424, 400 if IS_SIMULATED else 384), "sglang": (432, 417)}
PREFILLED = {"vllm": "408 tokens prefilled in ", "sglang": "420 tokens prefilled in "}


CORES = {"vllm": "EngineCore", "sglang": "scheduler"}  # in the names of the processes
TRACEBACKS = {"vllm": 1, "sglang": 0}  # of the death, however many requests run


@pytest.mark.ends_the_worker
def test_a_dead_engine_fails_its_jobs_and_ends_the_worker(endpoint):
    """Eight streams and two plain jobs run, and nobody waits; what was streamed stays."""
    platform, worker = endpoint.platform, endpoint.process
    story = {**STORY, "max_tokens": 1500}  # SGLang reserves room for what is asked for
    raw = {"openai_route": "/v1/completions", "openai_input": story}
    streamed = [platform.submit(job) for job in (story,) * 4 + (raw,) * 4]
    plain = [platform.submit({**story, "stream": False}) for _ in range(2)]
    for job_id in streamed:
        platform.wait_until(job_id, lambda job: len(job.chunks) > 2, 60)
    family = worker.children(recursive=True)
    [core] = [process for process in family if CORES[endpoint.engine] in arguments(process)]
    core.kill()
    assert worker.wait(120) == 5
    for job_id in streamed + plain:
        error = error_of(platform.job(job_id))
        assert (error["code"], error["type"]) == (503, "ServiceUnavailableError")
        assert error["message"] == "The engine died; the worker is being replaced."
    assert all(len(platform.job(job_id).chunks) > 2 for job_id in streamed)
    assert running(family) == []
    assert endpoint.log.read_text().count("Traceback") == TRACEBACKS[endpoint.engine]
