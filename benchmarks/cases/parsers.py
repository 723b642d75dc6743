"""Streams that vLLM's parsers read token by token, compared with streams that no parser reads.

The text is random, and parsers search all of it for the beginning of a call or an answer.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.load import Body, Loads, chat_bodies, median_loads
from benchmarks.report import Table, Target, load_rows

CONCURRENCY = (64, 192)
TOKENS = 128
TURNS = 3  # measurements of each side per start of its worker
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_city",
            "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
        },
    }
]
WITHOUT = "no parser"
TOOL_PARSER = {"TOOL_CALL_PARSER": "hermes", "ENABLE_AUTO_TOOL_CHOICE": "true"}
WORKERS: dict[str, dict[str, str]] = {
    WITHOUT: {},
    "hermes": TOOL_PARSER,
    "qwen3": {"REASONING_PARSER": "qwen3"},
}
SIDES = {  # worker, fields of each request
    WITHOUT: (WITHOUT, {}),
    "tool parser, no tools": ("hermes", {}),
    "tool parser, tools": ("hermes", {"tools": TOOLS}),
    "reasoning parser": ("qwen3", {}),
}
COMPARED = (  # base, and a side with more parsing
    (WITHOUT, "tool parser, no tools"),
    ("tool parser, no tools", "tool parser, tools"),
    (WITHOUT, "reasoning parser"),
)
FIGURES = ("output_tokens_per_second", "cpu_ms_per_token", "messages_per_request")
TARGETS = {("output_tokens_per_second", "192"): Target(0.9)}


def measure(bench: Bench) -> dict[str, Any]:
    """Take turns, so that a slow minute of the machine does not hit one side only."""
    loads: dict[str, list[Loads]] = {side: [] for side in SIDES}
    for _ in range(bench.options.starts):
        for name, setting in WORKERS.items():
            sides = [side for side, (worker, _) in SIDES.items() if worker == name]
            with bench.queue_worker(bench.environment(**setting)) as running:
                for side in sides * TURNS:
                    _, fields = SIDES[side]
                    loads[side].append(
                        {
                            level: running.measure(
                                level, _bodies(level * bench.options.rounds, fields)
                            )
                            for level in CONCURRENCY
                        }
                    )
    return {side: {"load": median_loads(loads[side])} for side in SIDES}


def _bodies(count: int, fields: Body) -> list[Body]:
    return [{**body, **fields} for body in chat_bodies(count, TOKENS)]


def tables(measured: Any) -> Sequence[Table]:
    return [
        Table(
            base, side, load_rows(measured[base]["load"], measured[side]["load"], FIGURES, TARGETS)
        )
        for base, side in COMPARED
    ]


CASE = Case("parsers", "Streams behind parsers of tool calls and reasoning", measure, tables)
