"""Long prompts: the worker's first token compared with that of the engine alone.

The engine alone gets token ids: it has no text to read from JSON and to tokenize.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.bench import Bench, Case
from benchmarks.cases.main import measure_engine
from benchmarks.load import Body, Figures, chat_body, median_loads
from benchmarks.report import Table, Target, load_rows

STREAMS = 32
PROMPT_TOKENS = 8000
TOKENS = 16
CONTEXT = {"max_model_len": 8192}
SENTENCE = "A river has its source in the mountains and ends in the sea. "
FIGURES = ("ttft_p50_seconds", "ttft_p99_seconds", "output_tokens_per_second", "prompt_tokens")
TARGETS = {
    ("ttft_p50_seconds", str(STREAMS)): Target(1.05, is_maximum=True),
    ("ttft_p99_seconds", str(STREAMS)): Target(1.05, is_maximum=True),
}


def measure(bench: Bench) -> dict[str, Any]:
    """Take turns, so that a slow minute of the machine does not hit one side only."""
    device = replace(bench.device, vllm_args={**bench.device.vllm_args, **CONTEXT})
    bench = replace(bench, device=device)
    environ = bench.environment()
    worker: list[dict[int, Figures]] = []
    engine: list[dict[int, Figures]] = []
    for _ in range(bench.options.starts):
        bodies = _bodies(Path(environ["MODEL_NAME"]), STREAMS * (1 + bench.options.rounds))
        with bench.queue_worker(environ) as running:
            figures = running.measure(STREAMS, bodies, warm_up=STREAMS)
        worker.append({STREAMS: figures})
        tokens = round(figures["prompt_tokens"])
        engine.append(dict(measure_engine(bench, [STREAMS], tokens, TOKENS)))
    return {"worker": median_loads(worker), "engine": median_loads(engine)}


def tables(measured: Any) -> Sequence[Table]:
    rows = load_rows(measured["engine"], measured["worker"], FIGURES, TARGETS)
    return [Table("engine alone", "worker", rows)]


def _bodies(model: Path, count: int) -> list[Body]:
    """Return chats without a common beginning, for which the prefix cache has nothing."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    repeats = PROMPT_TOKENS // len(tokenizer.encode(SENTENCE).ids)
    return [chat_body(f"{number} {SENTENCE * repeats}", TOKENS) for number in range(count)]


CASE = Case("long_prompts", "Prompts of 8,000 tokens", measure, tables)
