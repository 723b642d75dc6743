"""The soak of the HTTP front end: its schedule, and the violations that it must see."""

import asyncio
import json
from collections import Counter

import pytest
from aiohttp import web

from tests.soak.http_clients import (
    Clients,
    Result,
    answer_text,
    stream_problem,
    verdict,
)
from tests.soak.http_schedule import KINDS, Call, schedule
from tests.soak.windows import Window


def test_the_same_seed_is_the_same_schedule():
    assert schedule(7, 3).digest == schedule(7, 3).digest == "16a37cae3ffa4b7f"
    others = {schedule(*each).digest for each in [(8, 3), (7, 4), (7, 3, 1000)]}
    assert len(others - {schedule(7, 3).digest}) == 3


def test_a_schedule_has_calls_of_all_kinds_and_each_fault():
    plan = schedule(7, 3, 1000)
    assert {call.kind for call in plan.calls} == KINDS.keys()
    counts = Counter(fault.kind for fault in plan.faults)
    assert (counts["kill_core"], counts["terminate"]) == (1, 1)
    assert counts["freeze"] > 1
    assert counts["quiet"] > 5


@pytest.mark.parametrize("minutes", [3, 60])
def test_the_last_worker_lives_longest(minutes):
    plan = schedule(7, minutes)
    ends = [fault.at for fault in plan.faults if fault.kind in ("kill_core", "terminate")]
    assert max(ends) < plan.seconds / 3


def events(*texts, reason="stop", done="[DONE]", id="a"):
    chunks = [
        {"id": id, "choices": [{"text": text, "finish_reason": None}]} for text in texts[:-1]
    ] + [{"id": id, "choices": [{"text": texts[-1], "finish_reason": reason}]}]
    return "".join(f"data: {each}\n\n" for each in [*map(json.dumps, chunks), done] if each)


DIED = '{"error": {"message": "The engine died."}}'
PLANTED = {
    "whole": (events("one ", "two"), ""),
    "doubled": (events("one ", "one ", "two"), "the text is 'one one two' instead of 'one two'"),
    "lost": (events("two"), "the text is 'two' instead of 'one two'"),
    "out of order": (events("two", "one "), "the text is 'twoone ' instead of 'one two'"),
    "no end": (events("one ", "two", done=""), "the stream ends without [DONE]"),
    "cut": (events("one ", "two")[:-1], "the stream ends within an event"),
    "comment": (": a\n\n" + events("one ", "two"), "an event is not data"),
    "no reason": (events("one ", "two", reason=None), "finish reasons []"),
    "cut short": (events("one ", "two", reason="length"), "finish reasons ['length']"),
    "two answers": (
        events("one ", "two")[: -len("data: [DONE]\n\n")] + events("", reason=None, id="b"),
        "chunks of several answers",
    ),
    "error": (events("one ", "two", done=DIED), "the stream ends with an error"),
}


@pytest.mark.parametrize(("body", "problem"), PLANTED.values(), ids=PLANTED)
def test_what_is_wrong_with_a_stream(body, problem):
    found, message = stream_problem(body, "one two", "stop", is_chat=False)
    assert found == problem
    assert message == ("The engine died." if body.endswith(DIED + "\n\n") else "")


def result(status, message="", began=10.0, ended=11.0, problem="instead of 200"):
    return Result("plain", 1, began, ended, status, message, problem)


CORE, DRAIN = Window("core", 10.5, 13.0), Window("drain", 10.5, 13.0, excuses_from=10.0)
AWAY_AFTER_DRAIN = Window("away", 12.0, 15.0, excuses_from=10.0)
STOPPING, DIES = "The worker is being stopped.", "The engine died; the worker is being replaced."


@pytest.mark.parametrize(
    ("seen", "windows", "outcome"),
    [
        (result(200, problem=""), [], "as expected"),
        (result(0), [], "violation"),
        (result(0), [CORE], "connection lost (core)"),
        (result(0, ended=10.2), [CORE], "violation"),
        (result(503, DIES), [CORE], "refused (core)"),
        (result(500, DIES), [CORE], "violation"),
        (result(503, DIES), [Window("freeze", 9.0, 12.0)], "violation"),
        (result(503, STOPPING), [DRAIN], "refused (drain)"),
        (result(503, STOPPING, began=9.0), [DRAIN], "violation"),
        (result(0, ended=12.5), [DRAIN, AWAY_AFTER_DRAIN], "connection lost (away)"),
        (result(0, began=9.0, ended=12.5), [DRAIN, AWAY_AFTER_DRAIN], "violation"),
        (result(503, "The engine is starting."), [Window("start", 5.0, 10.5)], "refused (start)"),
        (result(503, "The queue is full."), [Window("start", 5.0, 10.5)], "violation"),
        (result(200, problem="the text is 'a' instead of 'b'"), [CORE, DRAIN], "violation"),
    ],
)
def test_only_a_fault_on_record_explains_another_answer(seen, windows, outcome):
    found, sentence = verdict(seen, windows)
    assert found == outcome
    assert bool(sentence) == (outcome == "violation")


def call(answer, kind, number):
    """Make one call of a server that answers every request the same, and return its results."""

    async def exchange():
        async def handle(request):
            await request.read()
            return web.Response(**answer)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        clients = Clients(port, "key", "marker", lambda: 0.0, lambda text: {"choice": [text]})
        clients.hurry.set()
        try:
            await clients.run(Call(0.0, kind, number, 0.2))
        finally:
            await runner.cleanup()
        return clients.results

    return asyncio.run(exchange())


def plain(text):
    return {"text": json.dumps({"choices": [{"text": text, "finish_reason": "stop"}]})}


@pytest.mark.parametrize(
    ("answer", "kind", "problems"),
    [
        (plain(answer_text(1)), "plain", [""]),
        (plain(answer_text(1)), "keep_alive", ["", None]),
        (plain(answer_text(2)), "plain", [None]),
        ({"status": 500, "text": '{"error": {"message": "a"}}'}, "plain", ["instead of 200"]),
        ({"text": "{"}, "plain", [None]),
        ({"text": events("one ")}, "stream", [None]),
        ({"status": 200}, "wrong_key", ["instead of 401"]),
        ({"status": 200}, "hostile", ["instead of 400"]),
    ],
    ids="right,kept alive,another's,500,no JSON,stream,wrong key,hostile".split(","),
)
def test_an_answer_is_compared_with_the_expected_one(answer, kind, problems):
    """None is any problem: its text is another library's, or long."""
    found = [each.problem for each in call(answer, kind, number=1)]
    assert len(found) == len(problems)
    for seen, due in zip(found, problems, strict=True):
        assert (seen == due) if due is not None else seen
