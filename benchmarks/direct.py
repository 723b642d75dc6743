r"""The engine driven directly: as many streams as asked for, no worker and no platform.

    MODEL_NAME=folder ENGINE_ARGS='--max-num-seqs 256' \
        python -m benchmarks.direct STREAMS JOBS TOKENS

Prints tokens per second, and the CPU's milliseconds per token, as JSON.
"""

import asyncio
import json
import os
import shlex
import statistics
import sys
import time

from benchmarks.processes import cpu_seconds


async def main(streams: int, jobs: int, tokens: int) -> dict[str, float]:
    """Write `jobs` answers, `streams` at once, after a round that is not counted."""
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    given = ["--model", os.environ["MODEL_NAME"], *shlex.split(os.environ["ENGINE_ARGS"])]
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(parser.parse_args(given)))
    sampling = SamplingParams(
        max_tokens=tokens, ignore_eos=True, temperature=0, output_kind=RequestOutputKind.DELTA
    )

    waits: list[float] = []

    async def write(numbers: "asyncio.Queue[int]") -> int:
        written = 0
        while not numbers.empty():
            number = numbers.get_nowait()
            began, first = time.monotonic(), True
            async for output in engine.generate(f"Count to {number}.", sampling, str(number)):
                if first:
                    waits.append(time.monotonic() - began)
                    first = False
                written += len(output.outputs[0].token_ids)
        return written

    async def run(first: int, count: int) -> int:
        numbers: asyncio.Queue[int] = asyncio.Queue()
        for number in range(first, first + count):
            numbers.put_nowait(number)
        return sum(await asyncio.gather(*(write(numbers) for _ in range(streams))))

    await run(0, streams)
    started, cpu = time.monotonic(), cpu_seconds(os.getpid())
    written = await run(streams, jobs)
    seconds, used = time.monotonic() - started, cpu_seconds(os.getpid()) - cpu
    engine.shutdown()
    return {
        "first_token_p50": statistics.median(waits),
        "tokens_per_second": written / seconds,
        "cpu_ms_per_token": used / written * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*map(int, sys.argv[1:4])))), flush=True)
    os._exit(0)
