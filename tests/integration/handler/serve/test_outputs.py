"""The rows of the table of outputs in docs/moving.md, on a stand-in engine."""

import asyncio
import json
import re

import pytest

from tests.support.environment import ROOT
from tests.support.stand_in_engine import USAGE, worker_on

NATIVE = {"prompt": "Hi"}
ROUTED = {"openai_route": "/v1/completions", "openai_input": NATIVE}
ROUTED_STREAM = {**ROUTED, "openai_input": NATIVE | {"stream": True}}


def is_completion(output):
    return output["choices"][0]["text"] == "Hi" and output["usage"] == USAGE


def is_list_of_chunks(outputs):
    texts = [choice["text"] for chunk in outputs for choice in chunk["choices"]]
    return "".join(texts) == "one two" and outputs[-1]["usage"] == USAGE


def is_list_of_whole_events(outputs):
    *events, done, end = "".join(outputs).split("\n\n")
    texts = [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events]
    return all(output.startswith("data: ") and output.endswith("\n\n") for output in outputs) and (
        "".join(texts),
        done,
        end,
    ) == ("one two", "data: [DONE]", "")


def is_openai_error(outputs):
    [output] = outputs
    return output.keys() == {"error"} and json.loads(output["error"])["error"]["code"] == 400


PACING = "how often"  # tests/unit/handler/engine/test_pacing.py
ROWS = {
    "native job": (NATIVE, lambda outputs: is_completion(*outputs)),
    "native stream, each chunk": (NATIVE | {"stream": True}, is_list_of_chunks),
    "OpenAI stream, each chunk": (ROUTED_STREAM, is_list_of_whole_events),
    "plain OpenAI answer": (ROUTED, lambda outputs: is_completion(*outputs)),
    "error": ({"prompt": "refuse"}, is_openai_error),
}


def test_each_row_of_the_page_is_here():
    page = (ROOT / "docs/moving.md").read_text()
    table = page.partition("## Outputs")[2].partition("| --- |")[2]
    assert set(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)) - {PACING} == ROWS.keys()


@pytest.mark.parametrize("row", ROWS)
def test_the_output_is_what_the_page_says(runtime, row):
    data, is_right = ROWS[row]

    async def run():
        worker = worker_on(runtime)
        return [output async for output in worker.handle({"id": "j", "input": data})]

    outputs = asyncio.run(run())
    assert is_right(outputs), outputs
