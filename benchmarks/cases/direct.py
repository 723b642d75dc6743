"""FP8, AWQ and bf16 in the engine alone, and the worker around it: no SDK, platform or HTTP.

Each variant is a process of its own, so another release of vLLM works as well. "cold" is a start
with empty caches of compiled code (vLLM's, inductor's, Triton's, CUDA's), "warm" the same start
again, "shared" a start with the code that earlier variants have compiled. FlashInfer's cache and
the page cache stay: only the very first start reads the disk.
"""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Case
from benchmarks.devices import ROOT
from benchmarks.direct import DirectRun
from benchmarks.process_group import run_logged
from benchmarks.report import Row, Table, load_rows

MIN_PROCESS_SECONDS = 20.0  # no process is started with less of the budget left
LOG_LINES = 15
ERROR = re.compile(r"(?:^|[\s\]])((?:\w+\.)*\w*(?:Error|Exception)\b: .*)")
NUMBER = r"([\d.,]*\d)"
# Parts of the start in seconds, which only the log has; patterns of vLLM 0.20 to 0.32.
LOG_STAGES: Mapping[str, str] = {
    "model": rf"Model loading took .*? and {NUMBER} seconds",
    "dynamo": rf"Dynamo bytecode transform time: {NUMBER} s",
    "compile": rf"torch\.compile (?:takes|took) {NUMBER} s in total",
    "profile": rf"Initial profiling/warmup run took {NUMBER} s",
    "graphs": rf"(?<!Encoder )[Gg]raph capturing finished in {NUMBER} sec",
    "after_model": rf"init engine \(profile, create kv cache, warmup model\) took {NUMBER} s",
}
LOG_SIZES: Mapping[str, str] = {
    "model_gib": rf"Model loading took {NUMBER} GiB",
    "kv_cache_tokens": rf"KV cache size: {NUMBER} tokens",
}


@dataclass(frozen=True)
class Variant:
    """One model, and how it is run.

    Attributes:
        quantization: of the checkpoint.
        compared_with: the variant on the other side of its tables.
        load: "load" with random prompts, "repeating" with repeating ones, "both".
        target: see `DirectRun`.
        is_cold: whether its first start has empty caches.
        vllm_args: they override the device's.
    """

    quantization: str
    compared_with: str = "bf16"
    load: str = "load"
    target: str = "engine"
    is_cold: bool = False
    vllm_args: Mapping[str, Any] = field(default_factory=dict)


NGRAM = {"method": "ngram", "num_speculative_tokens": 4}
NGRAM |= {"prompt_lookup_max": 4, "prompt_lookup_min": 2}
LEVELS = (1, 16, 64, 192)
REPEATING_CONCURRENCY = (1, 16)
# The most important first: the budget may run out.
VARIANTS: Mapping[str, Variant] = {
    "fp8": Variant("fp8", load="both", is_cold=True),
    "fp8-worker": Variant("fp8", "fp8", target="worker"),
    "bf16": Variant("none", is_cold=True),
    "awq": Variant("awq", is_cold=True),
    "fp8-ngram": Variant("fp8", "fp8", "repeating", vllm_args={"speculative_config": NGRAM}),
    # Not with the FP8 model, whose scales of keys and values would be random too.
    "bf16-kv-fp8": Variant("none", vllm_args={"kv_cache_dtype": "fp8"}),
}


def measure(bench: Bench) -> dict[str, Any]:
    """Start each variant once or, with a cold start, twice; measure at its last start."""
    deadline = time.monotonic() + bench.options.budget
    measured: dict[str, Any] = {}
    for name in bench.options.variants or VARIANTS:
        measured[name] = _measure_variant(bench, name, VARIANTS[name], deadline)
        bench.save(measured)  # so that a killed run leaves its results so far
    return measured


def _measure_variant(bench: Bench, name: str, variant: Variant, deadline: float) -> dict[str, Any]:
    measured: dict[str, Any] = {"starts": {}}
    for start in ("cold", "warm") if variant.is_cold else ("shared",):
        seconds = min(deadline - time.monotonic(), bench.options.timeout)
        if seconds < MIN_PROCESS_SECONDS:
            return measured | {"error": f"not run ({start}): the time of --budget is used up"}
        print(f"  {name}, {start}", file=sys.stderr, flush=True)
        load = {} if start == "cold" else _levels(variant, bench.levels(LEVELS))
        found = run_process(
            bench,
            variant,
            prompt_tokens=bench.options.prompt_tokens,
            output_tokens=bench.options.output_tokens,
            timeout_seconds=seconds,
            **load,
        )
        measured["starts"][start] = found.pop("stages")
        measured |= found
        if "error" in found:
            print(f"  {name}: {found['error']}", file=sys.stderr, flush=True)
            break
    return measured


def _levels(variant: Variant, concurrency: Sequence[int]) -> dict[str, Sequence[int]]:
    repeating = [level for level in REPEATING_CONCURRENCY if level <= max(concurrency)]
    return {
        "concurrency": () if variant.load == "repeating" else concurrency,
        "repeating": () if variant.load == "load" else repeating,
    }


def run_process(
    bench: Bench, variant: Variant, *, timeout_seconds: float, **run: Any
) -> dict[str, Any]:
    """Run `benchmarks.direct_process` and return its results, with an `error` if it failed.

    Args:
        run: further fields of `DirectRun`.
    """
    model = bench.dummy_model(variant.quantization)
    result, log = bench.folder / "direct.json", bench.folder / "direct.log"
    result.unlink(missing_ok=True)
    specification = DirectRun(
        target=variant.target,
        model=str(model),
        vocabulary=bench.device.shape.vocabulary,
        vllm_args={**bench.device.vllm_args, "load_format": "dummy", **variant.vllm_args},
        started_at=time.time(),
        rounds=bench.options.rounds,
        **run,
    )
    command = [bench.device.python["vllm"], "-m", "benchmarks.direct_process"]
    command += [json.dumps(asdict(specification)), str(result)]
    environ = process_environment(bench, model, variant)
    code = run_logged(command, environ, log, timeout_seconds)
    text = log.read_text(errors="replace")
    found: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    found["stages"] = found.get("stages", {}) | numbers_in(text, LOG_STAGES)
    found |= numbers_in(text, LOG_SIZES)
    if code != 0:
        for folder in (bench.folder, ROOT):
            text = text.replace(f"{folder}/", "")
        lines = text.splitlines()
        ended = "did not end in time" if code is None else f"ended with code {code}"
        found |= {"error": f"{ended}: {first_error(lines)}", "log": lines[-LOG_LINES:]}
    return found


def process_environment(bench: Bench, model: Path, variant: Variant) -> dict[str, str]:
    """Environment with caches of the model's own, without a network, with stages in the log."""
    cache = bench.folder / f"cache-{variant.quantization}"
    environ = {
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "CUDA_CACHE_PATH": str(cache / "cuda"),
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
    }
    given = bench.device.environment(model, dummy_weights=True)
    return {**given, **environ, **bench.device.environ}


def numbers_in(log: str, patterns: Mapping[str, str]) -> dict[str, float | None]:
    """The number at each pattern's first match, None without one."""
    matches = {name: re.search(pattern, log) for name, pattern in patterns.items()}
    return {
        name: float(match[1].replace(",", "")) if match else None for name, match in matches.items()
    }


def first_error(lines: Sequence[str]) -> str:
    """The first error in a log, which causes the others; else its last line."""
    errors = (match[1] for line in lines if (match := ERROR.search(line)))
    return next(errors, lines[-1] if lines else "it wrote nothing")


# ---- tables ----


def tables(measured: Any) -> Sequence[Table]:
    """Comparisons of variants, their starts, and errors."""
    errors = [f"{name}: {each['error']}" for name, each in measured.items() if "error" in each]
    missing = [Table("", "", [], "\n\n".join(errors))] if errors else []
    return [*_comparisons(measured), *_starts(measured), *missing]


def _comparisons(measured: Any) -> Iterator[Table]:
    for name, ours in measured.items():
        base = VARIANTS[name].compared_with
        theirs = measured.get(base, {})
        kind = "repeating" if VARIANTS[name].load == "repeating" else "load"
        rows = load_rows(theirs.get(kind, {}), ours.get(kind, {}))
        sizes = {size for size in LOG_SIZES if theirs.get(size) and ours.get(size)}
        rows += [Row(size, theirs[size], ours[size]) for size in sorted(sizes)]
        drafts = [
            f"Concurrency {level}: {figures['acceptance_ratio']:.0%} of the drafted tokens were "
            f"accepted, {figures['tokens_per_step']:.2f} tokens a step."
            for level, figures in ours.get("repeating", {}).items()
            if figures["acceptance_ratio"] is not None
        ]
        if rows and name != base:
            yield Table(base, name, rows, " ".join(drafts))


def _starts(measured: Any) -> Iterator[Table]:
    starts = {name: variant["starts"] for name, variant in measured.items()}
    pairs = [((name, "cold"), (name, "warm")) for name in starts]
    for base, other in [*pairs, (("fp8", "warm"), ("fp8-worker", "shared"))]:
        before, after = (starts.get(name, {}).get(start, {}) for name, start in (base, other))
        rows = [
            Row(f"start, {stage} (s)", before[stage], after[stage])
            for stage in before
            if before[stage] is not None and after.get(stage) is not None
        ]
        if rows:
            yield Table(" ".join(base), " ".join(other), rows)


CASE = Case("direct", "Engine and worker without SDK, platform or HTTP", measure, tables)
