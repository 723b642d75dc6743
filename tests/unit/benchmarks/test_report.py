"""Tables, targets, and the folder of results."""

import json
import platform
import sys
from types import ModuleType, SimpleNamespace

import pytest

from benchmarks import machine, plot, report
from benchmarks.bench import Case
from benchmarks.cases import CASES
from benchmarks.report import Bound, Bounds, Row, Table, Target, load_rows

MACHINE = {"cpu": "A CPU", "cores": 2, "memory_gib": 24, "python": "3.11.7", "vllm": "0.32.0"}


def test_a_table_shows_ratios_beside_their_targets():
    rows = [
        Row("throughput", 100, 1150, Target(1.2)),
        Row("wait (s)", 0.5, 0.4, Target(0.6, is_maximum=True)),
        Row("messages", 10, 10),
        Row("nothing", 0, 1, Target(1.2)),
    ]
    assert Table("baseline", "worker", rows, "A note.").markdown() == (
        "| figure | baseline | worker | ratio | target | met |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| throughput | 100 | 1,150 | 11.500 | ≥ 1.2 | yes |\n"
        "| wait (s) | 0.5 | 0.4 | 0.800 | ≤ 0.6 | no |\n"
        "| messages | 10 | 10 | 1.000 |  |  |\n"
        "| nothing | 0 | 1 | – |  |  |\n"
        "\n"
        "A note.\n"
    )


def test_a_bound_is_met_by_its_own_value():
    rows = [Bound("gap (s)", 0.3, 0.3), Bound("wait (s)", 0.31, 0.3)]
    assert Bounds("worker", rows).markdown() == (
        "| figure | worker | target | met |\n"
        "| --- | --- | --- | --- |\n"
        "| gap (s) | 0.3 | ≤ 0.3 | yes |\n"
        "| wait (s) | 0.31 | ≤ 0.3 | no |\n"
    )


def test_a_table_without_targets_has_no_columns_for_them():
    assert Table("off", "on", [Row("throughput", 4, 8)]).markdown() == (
        "| figure | off | on | ratio |\n| --- | --- | --- | --- |\n| throughput | 4 | 8 | 2.000 |\n"
    )


@pytest.mark.parametrize(
    ("target", "cells", "missed"),
    [
        (Target(1.2), ["≥ 1.2", "yes"], 1.19),
        (Target(0.6, is_maximum=True), ["≤ 0.6", "yes"], 0.61),
    ],
    ids=["minimum", "maximum"],
)
def test_a_target_is_met_at_its_bound(target, cells, missed):
    assert target.cells(target.ratio) == cells
    assert target.cells(missed)[1] == "no"


def test_loads_are_compared_at_the_levels_that_both_have():
    base = {"1": {"ttft_p50_seconds": 2.0}, "16": {"ttft_p50_seconds": 4.0}}
    rows = load_rows(base, {"16": {"ttft_p50_seconds": 1.0}}, ["ttft_p50_seconds"])
    assert rows == [Row("time to first token, p50 (s), concurrency 16", 4.0, 1.0)]


def test_the_machine_is_described_without_its_name():
    described = machine.describe()
    assert described.keys() >= MACHINE.keys()
    assert platform.node() not in machine.one_line(described)
    assert machine.one_line(MACHINE) == "A CPU, 2 cores, 24 GiB, Python 3.11.7, vLLM 0.32.0"
    assert machine.one_line(MACHINE | {"gpu": "H200"}).endswith("vLLM 0.32.0, gpu H200")


def test_the_gpu_is_the_one_that_nvml_names(monkeypatch):
    nvml = ModuleType("pynvml")
    vars(nvml).update(
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda device: "NVIDIA H200",
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(total=139 * 2**30),
        nvmlSystemGetDriverVersion=lambda: "580.1",
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    described = machine.describe()
    found = [described[name] for name in ("gpu", "gpu_memory_gib", "driver")]
    assert found == ["NVIDIA H200", 139, "580.1"]


def test_the_page_has_the_tables_of_each_result_that_is_there(tmp_path):
    def tables(measured):
        return [Table("off", "on", [Row("tokens", measured["off"], 2)])]

    cases = {name: Case(name, name.title(), lambda _: {}, tables) for name in ("one", "two")}
    report.save(tmp_path, "two", "cpu", MACHINE, {"off": 1})
    assert report.write_page(tmp_path, cases) == (
        "# Results\n\n"
        "Written by `make bench`. The ratios count: absolute times vary from run to run.\n\n"
        "## Two\n\n"
        "`two`, device cpu: A CPU, 2 cores, 24 GiB, Python 3.11.7, vLLM 0.32.0.\n\n"
        "| figure | off | on | ratio |\n| --- | --- | --- | --- |\n| tokens | 1 | 2 | 2.000 |\n"
    )


def test_the_recorded_page_is_made_of_the_recorded_results(tmp_path):
    recorded = report.RESULTS
    for path in (*recorded.glob("*.json"), *recorded.glob("*.png")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert report.write_page(tmp_path, CASES) == (recorded / "README.md").read_text()


def test_the_plot_has_a_line_of_each_side_and_a_bar_of_each_stage(tmp_path):
    measured = json.loads((report.RESULTS / "main.json").read_text())["measured"]
    throughput, ttft, starts = plot.draw(measured).get_axes()
    assert [len(axes.lines) for axes in (throughput, ttft)] == [3, 3]
    stages = [*measured["baseline"]["start"]["stages"], *measured["worker"]["start"]["stages"]]
    assert len(starts.patches) == len(stages)
