"""What each case measures makes its tables, with an instant worker in place of a real one."""

import asyncio
import json
import os
from argparse import Namespace
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from benchmarks.bench import Bench
from benchmarks.cases import CASES, long_prompts, speculation
from benchmarks.devices import DEVICES
from benchmarks.load import LoadTarget, Response
from benchmarks.queue_worker import Stage, Start


class InstantWorker(LoadTarget):
    """Answers each request at once: a unit test starts no engine."""

    pid = os.getpid()
    start = Start(9.0, (Stage("imports", 0.0, 4.0),))
    platform = SimpleNamespace()

    def drive(self, use):
        async def send(body):
            tokens = body["max_tokens"]
            return Response([0.1, 0.2], 0.3, messages=3, completion_tokens=tokens)

        return asyncio.run(use(send))


class InstantBench(Bench):
    @contextmanager
    def queue_worker(self, environ, worker=None, accept_queue=None):
        assert environ["MODEL_NAME"].startswith(str(self.folder))
        yield InstantWorker()


def instant_engine(bench, levels, prompt_tokens, output_tokens):
    body = {"max_tokens": output_tokens}
    return {
        level: InstantWorker().measure(level, [body] * 2 * level, warm_up=level) for level in levels
    }


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("accept_queue", 1),
        ("delays", 1),
        ("engines", 1),
        ("long_prompts", 1),
        ("memory", 1),
        ("parsers", 3),
        ("prefix", 1),
        ("quantization", 2),
        ("speculation", 2),
        ("start", 2),
    ],
)
def test_what_a_case_measures_makes_its_tables(monkeypatch, tmp_path, name, tables):
    monkeypatch.setattr(speculation, "fetch_metrics", lambda platform: "")
    monkeypatch.setattr(long_prompts, "measure_engine", instant_engine)
    options = Namespace(rounds=1, starts=1, jobs=1280, concurrency=())
    case = CASES[name]
    measured = case.measure(InstantBench(DEVICES["gpu"], tmp_path, options, print))
    made = case.tables(json.loads(json.dumps(measured)))
    assert len(made) == tables
    assert all(table.rows for table in made)
    ttft = [row for table in made for row in table.rows if row.label.startswith("time to first")]
    assert {(row.base, row.other) for row in ttft} <= {(0.1, 0.1)}
