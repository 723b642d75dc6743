r"""The engine driven directly: as many streams as asked for, no worker and no platform.

    MODEL_NAME=folder ENGINE_ARGS='--max-num-seqs 256' \
        python -m benchmarks.direct ROUNDS TOKENS STREAMS…

Prints a line of JSON: for each number of streams what `written` returns.
"""

import asyncio
import itertools
import json
import os
import shlex
import statistics
import sys
import time
from typing import Any

from benchmarks.processes import cpu_seconds


async def main(rounds: int, tokens: int, *streams: int) -> dict[int, dict[str, float]]:
    """Write `rounds` answers a stream, for each number of streams."""
    from vllm import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    given = ["--model", os.environ["MODEL_NAME"], *shlex.split(os.environ["ENGINE_ARGS"])]
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(parser.parse_args(given)))
    numbers = itertools.count()
    measured = {}
    for count in streams:
        await written(engine, numbers, count, 1, tokens)
        measured[count] = await written(engine, numbers, count, max(2 // count, 1) * rounds, tokens)
    engine.shutdown()
    return measured


async def written(
    engine: Any, numbers: "itertools.count[int]", streams: int, rounds: int, tokens: int
) -> dict[str, float]:
    """Write the answers: tokens per second, CPU milliseconds per token, first tokens' seconds."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = SamplingParams(
        max_tokens=tokens, ignore_eos=True, temperature=0, output_kind=RequestOutputKind.DELTA
    )
    waits: list[float] = []

    async def stream() -> None:
        for number in itertools.islice(numbers, rounds):
            began, first = time.monotonic(), True
            async for _ in engine.generate(f"Count to {number}.", sampling, str(number)):
                if first:
                    waits.append(time.monotonic() - began)
                    first = False

    started, cpu = time.monotonic(), cpu_seconds(os.getpid())
    await asyncio.gather(*(stream() for _ in range(streams)))
    seconds, used = time.monotonic() - started, cpu_seconds(os.getpid()) - cpu
    count = streams * rounds * tokens
    return {
        "first_token_p50": statistics.median(waits),
        "tokens_per_second": count / seconds,
        "cpu_ms_per_token": used / count * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*map(int, sys.argv[1:])))), flush=True)
    os._exit(0)
