"""The case `direct` and its processes; the engine that it measures does not run here."""

import json
import sys
from argparse import Namespace
from types import ModuleType

import pytest

from benchmarks import vllm_names
from benchmarks.bench import Bench
from benchmarks.cases.direct import (
    LOG_SIZES,
    LOG_STAGES,
    VARIANTS,
    first_error,
    numbers_in,
    process_environment,
    tables,
)
from benchmarks.devices import DEVICES
from benchmarks.direct import ResultFile, acceptance
from benchmarks.vllm_names import vllm_object


@pytest.mark.parametrize("place", [0, 1, 2], ids=["newest", "older", "oldest"])
def test_a_name_is_found_in_the_first_module_that_has_it(monkeypatch, place):
    paths = ("fake_vllm.common.cli_args", "fake_vllm.launchers.cli_args", "fake_vllm.cli_args")
    monkeypatch.setitem(vllm_names.MODULES, "make_arg_parser", paths)
    monkeypatch.setitem(sys.modules, "fake_vllm", ModuleType("fake_vllm"))
    module = ModuleType(paths[place])
    module.make_arg_parser = place
    monkeypatch.setitem(sys.modules, paths[place], module)
    assert vllm_object("make_arg_parser") == place


def test_a_name_that_no_module_has_is_an_error(monkeypatch):
    monkeypatch.setitem(vllm_names.MODULES, "build_app", ("fake_vllm", "fake_other"))
    monkeypatch.setitem(sys.modules, "fake_vllm", ModuleType("fake_vllm"))
    with pytest.raises(ImportError, match=r"^this vLLM has no build_app in fake_vllm, fake_other$"):
        vllm_object("build_app")


def test_a_module_that_cannot_be_imported_is_not_passed_over(monkeypatch, tmp_path):
    (tmp_path / "broken_vllm.py").write_text("import not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(vllm_names.MODULES, "build_app", ("broken_vllm",))
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        vllm_object("build_app")


def test_a_figure_is_in_the_file_at_once(tmp_path):
    result = ResultFile(tmp_path / "result.json")
    result.add("stages.imports", 1.5)
    result.add("stages.engine", None)
    result.add("quantization", "fp8")
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "stages": {"imports": 1.5, "engine": None},
        "quantization": "fp8",
    }


@pytest.mark.parametrize(
    ("counters", "ratio", "tokens"),
    [((0, 0, 0), None, None), ((10, 40, 30), 0.75, 4.0), ((10, 40, 0), 0.0, 1.0)],
    ids=["no speculation", "most accepted", "none accepted"],
)
def test_a_step_writes_the_accepted_tokens_and_one_more(counters, ratio, tokens):
    assert acceptance(*counters) == {"acceptance_ratio": ratio, "tokens_per_step": tokens}


LOG = """\
(EngineCore pid=1) INFO 10-06 12:00:31 [gpu_model_runner.py:5150] Model loading took 8.48 GiB \
memory and 1.250000 seconds
(EngineCore pid=1) INFO 10-06 12:00:31 [backends.py:1167] Dynamo bytecode transform time: 4.50 s
(EngineCore pid=1) INFO 10-06 12:00:31 [monitor.py:48] torch.compile took 12.25 s in total
(EngineCore pid=1) INFO 10-06 12:00:31 [kv_cache_utils.py:1087] GPU KV cache size: 861,952 tokens
(EngineCore pid=1) INFO 10-06 12:00:31 [mm.py:95] Encoder graph capturing finished in 3 secs, took
(EngineCore pid=1) INFO 10-06 12:00:31 [gpu_model_runner.py:6582] Graph capturing finished in \
8 secs, took 0.31 GiB
(EngineCore pid=1) INFO 10-06 12:00:31 [core.py:396] init engine (profile, create kv cache, \
warmup model) took 31.50 s (compilation: 12.25 s)
"""


def test_the_stages_of_the_start_are_read_from_vllms_log():
    assert numbers_in(LOG, LOG_STAGES) == {
        "model": 1.25,
        "dynamo": 4.5,
        "compile": 12.25,
        "profile": None,
        "graphs": 8.0,
        "after_model": 31.5,
    }
    assert numbers_in(LOG, LOG_SIZES) == {"model_gib": 8.48, "kv_cache_tokens": 861952.0}


@pytest.mark.parametrize(
    ("line", "stages"),
    [
        ("torch.compile takes 20.50 s in total", {"compile": 20.5}),
        ("Model loading took 14.99 GiB and 2.5 seconds", {"model": 2.5}),
        (
            "init engine (profile, create kv cache, warmup model) took 2.67 seconds",
            {"after_model": 2.67},
        ),
    ],
    ids=["compile", "model", "after the model"],
)
def test_the_wording_of_other_releases_is_read_as_well(line, stages):
    found = numbers_in(line, LOG_STAGES)
    assert {name: value for name, value in found.items() if value is not None} == stages


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (
            ["x", "(EngineCore pid=1) ERROR [core.py:1] RuntimeError: out of memory", "E: y"],
            "RuntimeError: out of memory",
        ),
        (["vllm.exceptions.VLLMError: a", "ValueError: b"], "vllm.exceptions.VLLMError: a"),
        (["something", "the last"], "the last"),
        ([], "it wrote nothing"),
    ],
    ids=["in the core", "first", "no error", "no output"],
)
def test_the_cause_is_the_first_error_of_a_log(lines, error):
    assert first_error(lines) == error


@pytest.mark.parametrize("variant", ["fp8", "fp8-worker"], ids=["engine", "worker"])
def test_a_variant_has_the_caches_of_its_quantization_and_vllms_start_method(tmp_path, variant):
    bench = Bench(DEVICES["gpu"], tmp_path, Namespace(), print)
    environ = process_environment(bench, tmp_path / "model", VARIANTS[variant])
    assert "VLLM_WORKER_MULTIPROC_METHOD" not in environ
    assert environ["VLLM_CACHE_ROOT"] == str(tmp_path / "cache-fp8/vllm")
    assert environ["HF_HUB_OFFLINE"] == "1"


def _load(throughput: float) -> dict[str, float]:
    figures = ("ttft_p50_seconds", "ttft_p99_seconds", "itl_p50_seconds", "cpu_ms_per_token")
    return {"output_tokens_per_second": throughput, **dict.fromkeys(figures, 0.5)}


def test_the_tables_compare_what_both_sides_have_and_name_what_is_missing():
    measured = {
        "fp8": {
            "starts": {"cold": {"total": 90.0, "graphs": None}, "warm": {"total": 45.0}},
            "load": {"1": _load(300.0)},
            "kv_cache_tokens": 900.0,
        },
        "bf16": {
            "starts": {"cold": {"total": 80.0}},
            "load": {"1": _load(200.0), "16": _load(900.0)},
            "kv_cache_tokens": 600.0,
            "error": "ended with code 1: RuntimeError: no more",
        },
        "awq": {"starts": {}, "error": "not run (cold): the time of --budget is used up"},
    }
    comparison, starts, missing = tables(measured)
    assert (comparison.base, comparison.other) == ("bf16", "fp8")
    assert [(row.label, row.base, row.other) for row in comparison.rows] == [
        ("throughput (tokens/s), concurrency 1", 200.0, 300.0),
        ("time to first token, p50 (s), concurrency 1", 0.5, 0.5),
        ("time to first token, p99 (s), concurrency 1", 0.5, 0.5),
        ("inter-token latency, p50 (s), concurrency 1", 0.5, 0.5),
        ("CPU per token (ms), concurrency 1", 0.5, 0.5),
        ("kv_cache_tokens", 600.0, 900.0),
    ]
    [total] = starts.rows
    assert (starts.base, starts.other, total.base, total.other) == ("fp8 cold", "fp8 warm", 90, 45)
    assert missing.note == (
        "bf16: ended with code 1: RuntimeError: no more\n\n"
        "awq: not run (cold): the time of --budget is used up"
    )
