"""What the benchmarks write: tables, targets, plots and the machine. No test asserts a time."""

import json
import platform

import pytest

from benchmarks import cold, machine, plots, results
from benchmarks.case import Case
from benchmarks.cases import CASES
from benchmarks.report import Row, Table, at_least, at_most, markdown

MACHINE = {"cpu": "A CPU", "cores": 2, "memory_gib": 24, "python": "3.11.7", "vllm": "0.32.0"}


def start(*stages):
    """A start as a result has it."""
    return {
        "seconds": 9.0,
        "stages": [dict(zip(("name", "begin_seconds", "seconds"), s, strict=True)) for s in stages],
    }


def loads(scale):
    """The load of a contender as a result has it."""
    figures = ("tokens_per_second", "first_token_p50", "first_token_p99", "total_p50")
    figures = (*figures, "cpu_ms_per_token")
    return {s: dict.fromkeys(figures, scale * float(s)) for s in ("1", "16", "64", "192")}


MAIN = {
    "baseline": {"start": start(("server", 1.0, 7.0), ("first job", 8.0, 1.0)), "load": loads(1)},
    "worker": {
        "start": start(("imports", 0.5, 4.0), ("SDK", 0.6, 1.0), ("engine", 4.5, 3.0)),
        "load": loads(2),
    },
    "engine": {"load": loads(4)},
}


def test_a_table_has_ratios_and_targets():
    """Each beside what it is compared with; a row without a target says nothing of it."""
    rows = [
        Row("tokens/s", 100, 150, at_least(1.2)),
        Row("wait (s)", 0.5, 0.4, at_most(0.6)),
        Row("POSTs", 10, 10),
    ]
    assert markdown(Table("baseline", "worker", rows, "A note.")) == (
        "| what | baseline | worker | ratio | target | met |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| tokens/s | 100 | 150 | 1.500 | ≥ 1.2 | yes |\n"
        "| wait (s) | 0.5 | 0.4 | 0.800 | ≤ 0.6 | no |\n"
        "| POSTs | 10 | 10 | 1.000 |  |  |\n"
        "\n"
        "A note.\n"
    )


def test_a_table_without_targets_has_no_columns_for_them():
    """Nothing is left empty."""
    assert markdown(Table("off", "on", [Row("tokens/s", 4, 8)])) == (
        "| what | off | on | ratio |\n| --- | --- | --- | --- |\n| tokens/s | 4 | 8 | 2.000 |\n"
    )


@pytest.mark.parametrize(
    ("target", "met", "missed"),
    [(at_least(1.2), 1.2, 1.19), (at_most(0.6), 0.6, 0.61)],
    ids=["at least", "at most"],
)
def test_a_target_is_met_or_missed(target, met, missed):
    """The target itself is met."""
    assert target.met(met)
    assert not target.met(missed)


def test_the_machine_is_told_without_its_name():
    """One line: processor, cores, memory, versions."""
    assert machine.line(MACHINE) == "A CPU, 2 cores, 24 GiB, Python 3.11.7, vLLM 0.32.0"
    described = machine.describe()
    assert described.keys() == MACHINE.keys()
    assert platform.node() not in machine.line(described)


def test_the_page_has_each_result_on_its_machine(tmp_path):
    """In the order of the cases, as far as there are results."""

    def tables(measured):
        return [Table("off", "on", [Row("tokens", measured["off"], 2)])]

    cases = {name: Case(name, name.title(), lambda _: {}, tables) for name in ("one", "two")}
    results.save(tmp_path, cases["two"], MACHINE, {"off": 1})
    assert results.publish(tmp_path, cases) == (
        "# Results\n\n"
        "Written by `make bench`. Ratios count; absolute times are not stable.\n\n"
        "## Two\n\n"
        "`two`, on A CPU, 2 cores, 24 GiB, Python 3.11.7, vLLM 0.32.0.\n\n"
        "| what | off | on | ratio |\n| --- | --- | --- | --- |\n| tokens | 1 | 2 | 2.000 |\n"
    )


def test_the_same_results_are_the_same_files(tmp_path):
    """The page and both plots, byte for byte, with a title and units in them."""
    written = []
    for name in ("first", "second"):
        results.save(tmp_path / name, CASES["main"], MACHINE, MAIN)
        results.publish(tmp_path / name, CASES)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert written[0].keys() == {"main.json", "README.md", "load.svg", "start.svg"}
    assert b"<dc:date>" not in written[0]["load.svg"]


def test_a_starts_plot_has_a_bar_for_each_stage():
    """Where it began and how long it took, the baseline's above the worker's."""
    [axes] = plots.start(MAIN).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        *("server", "first job"),
        *("imports", "SDK", "engine"),
    ]
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert bars == [(1.0, 7.0), (8.0, 1.0), (0.5, 4.0), (0.6, 1.0), (4.5, 3.0)]


def test_stages_are_read_from_the_workers_metrics():
    """By their two gauges; a worker without these has none."""
    text = "\n".join(
        [
            "# TYPE llm_worker_start_seconds gauge",
            'llm_worker_start_seconds{stage="imports"} 4.0',
            'llm_worker_start_seconds{stage="engine"} 6.5',
            "# TYPE llm_worker_start_offset_seconds gauge",
            'llm_worker_start_offset_seconds{stage="imports"} 0.5',
            'llm_worker_start_offset_seconds{stage="engine"} 4.5',
        ]
    )
    assert cold.exported_stages(text) == (
        cold.Stage("imports", 0.5, 4.0),
        cold.Stage("engine", 4.5, 6.5),
    )
    assert cold.exported_stages("") == ()


def test_stages_are_read_from_the_baselines_log():
    """From one line of JSON among others; nothing is known without it."""
    moments = json.dumps({"server_started_at": 101.5, "healthy_at": 120.0})
    assert cold.printed_stages(f"a line\n{moments}\nanother\n", began_at=100.0) == (
        cold.Stage("imports of the worker", 0.0, 1.5),
        cold.Stage("server, until it is found healthy", 1.5, 18.5),
    )
    assert cold.printed_stages("a line\n", began_at=100.0) == ()


def test_the_median_start_is_one_that_was():
    """With its own stages; of two the shorter."""
    starts = [cold.Start(seconds, ()) for seconds in (3.0, 1.0, 2.0)]
    assert cold.median(starts) is starts[2]
    assert cold.median(starts[:2]) is starts[1]
