"""The case `http` with guidellm as the load generator: figures that our own client did not make."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.cases.http import SIDES, TARGETS
from benchmarks.devices import ROOT
from benchmarks.http_server import API_KEY, REQUEST_TIMEOUT_SECONDS, HttpServer
from benchmarks.load import Figures, Loads, chat_bodies, median_loads
from benchmarks.process_group import run_logged
from benchmarks.report import Table, load_rows

GUIDELLM = ROOT / ".venv-guidellm/bin/guidellm"
SCENARIO, REPORT = "guidellm-scenario.json", "guidellm-report.json"
TIMEOUT_SECONDS = 1800.0
MAX_PROCESSES = 10  # guidellm's own default
LEVELS = (1, 16, 64, 192)
PROMPT_TOKENS = 32
TOKENS = 128
FIGURES = (
    "output_tokens_per_second",
    "requests_per_second",
    "ttft_p50_seconds",
    "ttft_p99_seconds",
    "itl_p50_seconds",
    "e2e_latency_p50_seconds",
)


def measure(bench: Bench) -> dict[str, Any]:
    """Take turns, so that a slow minute of the machine does not hit one side only."""
    if not GUIDELLM.is_file():
        raise RuntimeError("guidellm is not installed. Run `make .venv-guidellm/all`.")
    options, environ, levels = bench.options, bench.environment(), bench.levels(LEVELS)
    loads: dict[str, list[Loads]] = {name: [] for name in SIDES}
    for _ in range(options.starts):
        for name, running in SIDES.items():
            with running(environ, bench.device.python["vllm"]) as server:
                server.send_all(max(levels), chat_bodies(max(levels), TOKENS))  # warm-up
                scenario = _scenario(server, environ["MODEL_NAME"], levels, options.rounds * 2)
                loads[name].append(read_loads(_run(bench.folder, scenario)))
    return {name: median_loads(runs) for name, runs in loads.items()}


def tables(measured: Any) -> Sequence[Table]:
    rows = load_rows(measured["server"], measured["worker"], FIGURES, TARGETS)
    return [Table("engine's own server", "worker", rows)]


def _scenario(server: HttpServer, model: str, levels: Sequence[int], rounds: int) -> dict[str, Any]:
    """Settings of guidellm: streamed chats, `rounds` per stream at each level of concurrency.

    guidellm asks the server for the name of its model. With a number of output tokens it sends
    `ignore_eos`, so that each response has exactly as many.
    """
    backend = {
        "kind": "openai_http",
        "target": server.url,
        "api_key": API_KEY,
        "timeout": REQUEST_TIMEOUT_SECONDS,
        "extras": {"body": {"temperature": 0}},
    }
    prompts = {"prompt_tokens": PROMPT_TOKENS, "output_tokens": TOKENS}
    return {
        "spec": {
            "backend": backend,
            "data": [{"kind": "synthetic_text", **prompts}],
            "tokenizer": {"kind": "huggingface_auto", "model": model},
            "profile": {"kind": "concurrent"},
            "constraints": [{"kind": "max_requests"}],
            "outputs": [{"kind": "json", "path": REPORT}],
        },
        "benchmarks": [
            {"profile.streams": level, "constraints[0].count": level * rounds} for level in levels
        ],
    }


def _run(folder: Path, scenario: Mapping[str, Any]) -> Any:
    """Run guidellm in a folder, with its caches there and without a model hub; return its report.

    Raises:
        RuntimeError: it ended with an error, or took longer than `TIMEOUT_SECONDS`.
    """
    (folder / SCENARIO).write_text(json.dumps(scenario))
    # Each of its processes imports torch: more of them than cores would only slow the server.
    processes = min(len(os.sched_getaffinity(0)), MAX_PROCESSES)
    environ = {
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "GUIDELLM__MAX_WORKER_PROCESSES": str(processes),
    }
    log = folder / "guidellm.log"
    command: list[str | Path] = [GUIDELLM, "run", "--config", SCENARIO, "--disable-console"]
    code = run_logged(command, environ, log, TIMEOUT_SECONDS, folder=folder)
    if code != 0:
        ended = "did not end in time" if code is None else f"ended with code {code}"
        raise RuntimeError(f"guidellm {ended}: {log.read_text(errors='replace')[-2000:]}")
    return json.loads((folder / REPORT).read_text())


def read_loads(report: Mapping[str, Any]) -> Loads:
    """Figures in guidellm's report, by the level of concurrency.

    Raises:
        RuntimeError: a request failed, or a response has another number of tokens than requested.
    """
    return {
        benchmark["config"]["strategy"]["streams"]: _read_figures(benchmark)
        for benchmark in report["benchmarks"]
    }


def _read_figures(benchmark: Mapping[str, Any]) -> Figures:
    metrics = benchmark["metrics"]
    totals = metrics["request_totals"]
    if totals["successful"] != totals["total"]:
        failed = [*benchmark["requests"]["errored"], *benchmark["requests"]["incomplete"]]
        raise RuntimeError(
            f"{len(failed)} of {totals['total']} requests of guidellm failed, "
            f"the first with {failed[0]['info']['error']}"
        )
    tokens = metrics["output_token_count"]["successful"]
    if not tokens["min"] == tokens["max"] == TOKENS:
        raise RuntimeError(
            f"the responses have {tokens['min']:g} to {tokens['max']:g} tokens instead of {TOKENS}"
        )
    ttft = metrics["time_to_first_token_ms"]["successful"]["percentiles"]
    return {
        "output_tokens_per_second": metrics["output_tokens_per_second"]["successful"]["mean"],
        # guidellm's own rate counts no request that ended after the last one that it handled.
        "requests_per_second": totals["successful"] / benchmark["duration"],
        "ttft_p50_seconds": ttft["p50"] / 1000,
        "ttft_p99_seconds": ttft["p99"] / 1000,
        "itl_p50_seconds": metrics["inter_token_latency_ms"]["successful"]["median"] / 1000,
        "e2e_latency_p50_seconds": metrics["request_latency"]["successful"]["median"],
    }


CASE = Case(
    "guidellm",
    "Worker over HTTP compared with the engine's own server, with guidellm as the client",
    measure,
    tables,
)
