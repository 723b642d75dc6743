"""A stream goes on beside each request that asks too much.

Its largest gap is a figure, not a bound: `pytest -rP` prints it.
"""

import json
from itertools import pairwise

import pytest

from runpod_local import JobState
from tests.engine.test_queue import IDLE, QUESTION, STORY, error_of
from tests.support.conditions import wait_until

TOKENS = 60
WORDS = [f"word {number}" for number in range(100_000)]
MAX_GROWTH_BYTES = 300 << 20  # the cache of constraints holds 128 MiB


def chat(**fields):
    return {"openai_input": {"messages": QUESTION, "max_tokens": 8, **fields}}


def schema(value):
    return chat(guided_json=value)


def optional(count):
    return {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(count)}}


ITEMS, BYTES = "the limit that MAX_SCHEMA_ITEMS sets", "the limit that MAX_SCHEMA_BYTES sets"
CANNOT_FIT = "cannot fit the context"
DEEP = {"type": "json_schema", "json_schema": {"name": "deep", "schema": "[" * 50_000}}
ITSELF, SEQUENCES = "leads back to itself", "the limit that MAX_SEQUENCES_PER_REQUEST sets"


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (schema({"$ref": "#"}), ITSELF),
        (schema({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}), ITSELF),
        (schema({"type": "string", "minLength": -1}), "minLength must not be negative"),
        (schema({"enum": WORDS}), ITEMS),
        (schema(optional(20_000)), ITEMS),
        (schema(optional(1_000)), "more than 256 optional properties"),
        (chat(guided_choice=WORDS), "the limit that MAX_SCHEMA_"),
        (chat(guided_regex="|".join(WORDS)), BYTES),
        (chat(n=16_384, temperature=1), SEQUENCES),
        ({"prompt": ["Hi"] * 1_024, "max_tokens": 8}, SEQUENCES),
        (chat(n="16384", temperature=1), SEQUENCES),
        (chat(stop=WORDS), "the limit that MAX_SAMPLING_ITEMS sets is 1024"),
        (chat(stop_regex="(a+)+b"), "stop_regex"),
        (chat(logprobs=True, top_logprobs=200_000), "logprobs"),
        (chat(response_format=DEEP), "response_format is nested too deeply"),
        (chat(messages=[], tools=[{"function": {"description": "a " * 5_000_000}}]), CANNOT_FIT),
    ],
    ids=(
        "ref,anyOf,negative length,enumeration,20000 properties,1000 properties,choices,regex,"
        "answers,prompts,answers as a text,stops,stop_regex,logprobs,deep schema,tool"
    ).split(","),
)
def test_a_stream_goes_on_beside_a_request_that_is_refused(endpoint, job, message, record_property):
    """The answer says what is wrong and which setting bounds it; nothing is left in the engine."""
    victim = endpoint.platform.submit({**STORY, "max_tokens": TOKENS})
    error = error_of(endpoint.run(job))
    assert (error["code"], error["type"]) == (400, "BadRequestError")
    assert message in error["message"]
    done = endpoint.platform.wait(victim, 300)
    assert done.output[-1]["usage"]["completion_tokens"] == TOKENS
    wait_until(lambda: endpoint.engine_load() == IDLE, 60)
    print(largest_gap(done))


def test_a_stream_that_is_alone(endpoint):
    """Its largest gap, with which those beside a refused request compare."""
    done = endpoint.run({**STORY, "max_tokens": TOKENS})
    assert done.output[-1]["usage"]["completion_tokens"] == TOKENS
    print(largest_gap(done))


def largest_gap(job):
    gaps = [after.arrived_at - before.arrived_at for before, after in pairwise(job.chunks)]
    return f"largest gap of the stream: {max(gaps, default=0.0):.3f} s"


SECRET = "what-only-the-caller-knows"


def malformed(engine):
    structures = {"structures": [{SECRET: 1}], "triggers": [SECRET]}
    yield chat(response_format={"type": "structural_tag", **structures})
    yield chat(response_format={"type": "structural_tag", "format": {"type": SECRET}})
    yield chat(guided_grammar=f'root ::= "{SECRET}" (')
    yield chat(guided_regex=f"{SECRET}(")
    yield schema({"type": "object", "properties": {SECRET: {"type": SECRET}}})
    if engine == "vllm":
        yield chat(vllm_xargs={"kv_transfer_params": "a"})
        yield chat(vllm_xargs={"ec_transfer_params": [1]})


def test_a_malformed_constraint_is_the_callers_error(endpoint):
    """No 500, in whatever the constraint is wrong; its text is in no log."""
    for job in malformed(endpoint.engine):
        assert error_of(endpoint.run(job))["code"] == 400
    assert SECRET not in endpoint.log.read_text()


def memory_bytes(process):
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


def test_constraints_of_callers_who_left_neither_hold_the_next_nor_stay(endpoint):
    """The largest that pass the bounds, each another; the next caller's is a small one."""
    small = schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    assert endpoint.run(small).state is JobState.COMPLETED
    before = memory_bytes(endpoint.process)
    submitted = []
    for number in range(12):
        objects = {f"o{n}": optional(240 - number) for n in range(8)}
        large = {"type": "object", "properties": objects, "required": list(objects)}
        submitted.append(endpoint.platform.submit(schema(large)))
    for job_id in submitted:
        endpoint.platform.wait_until(job_id, lambda job: job.state is not JobState.IN_QUEUE, 30)
        endpoint.platform.cancel(job_id)
    job = endpoint.run({**small, "openai_input": {**small["openai_input"], "max_tokens": 40}})
    assert job.state is JobState.COMPLETED
    wait_until(lambda: endpoint.engine_load() == IDLE, 60)
    assert memory_bytes(endpoint.process) - before < MAX_GROWTH_BYTES


def test_a_constraint_keeps_its_meaning_after_one_of_another_kind(endpoint):
    """vLLM checks `multipleOf` with guidance, and the tool call with xgrammar."""
    tool = {
        "type": "function",
        "function": {
            "name": "find",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for _ in range(2):
        limits = {"type": "integer", "multipleOf": 7, "minimum": 7, "maximum": 13}
        job = endpoint.run(schema(limits))
        if endpoint.engine == "vllm":
            assert job.output[0]["choices"][0]["message"]["content"].strip() == "7"
        else:
            assert "multipleOf" in error_of(job)["message"]
        job = endpoint.run(chat(tools=[tool], tool_choice="required", max_tokens=100))
        [call, *_] = job.output[0]["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
