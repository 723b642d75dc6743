"""What every case does in its process: read its specification, note what it finds, name by name.

The result's file is written anew after each step, so that a case that ends early leaves what it
had. Where a name of vLLM has moved between releases `MODULES` says where it may be: 0.20 to 0.26
were read for this, 0.32 was run.
"""

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.cuda.load import Ask, measure, prompts

ROUNDS = 2  # answers of each stream
LEAST_ANSWERS = 8
WARM_TOKENS = 8

CLI_ARGS = (
    "vllm.entrypoints.common.cli_args",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.openai.cli_args",
)
API_SERVER = "vllm.entrypoints.openai.api_server"
MODULES: Mapping[str, tuple[str, ...]] = {
    "AsyncEngineArgs": ("vllm", "vllm.engine.arg_utils"),
    "AsyncLLM": ("vllm.v1.engine.async_llm",),
    "SamplingParams": ("vllm", "vllm.sampling_params"),
    "RequestOutputKind": ("vllm.sampling_params",),
    "FlexibleArgumentParser": ("vllm.utils.argparse_utils", "vllm.utils"),
    "make_arg_parser": CLI_ARGS,
    "validate_parsed_serve_args": CLI_ARGS,
    "build_app": ("vllm.entrypoints.launchers.app", API_SERVER),
    "init_app_state": ("vllm.entrypoints.launchers.api_server.app_state", API_SERVER),
    "build_async_engine_client": ("vllm.entrypoints.launchers.api_server.entry", API_SERVER),
}


def found(name: str) -> Any:
    """Return vLLM's object of that name from the first module of `MODULES` that has it.

    Raises:
        ImportError: none of them has it, or what one of them needs is not there.
    """
    for place in MODULES[name]:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            if not f"{place}.".startswith(f"{error.name}."):
                raise  # the module is there, and what it needs is not
            continue
        if hasattr(module, name):
            return getattr(module, name)
    raise ImportError(f"this vLLM has no {name} in {', '.join(MODULES[name])}")


@dataclass(frozen=True)
class Specification:
    """What a case is to do.

    Attributes:
        model: the model's folder.
        vocabulary: the model's tokens.
        flags: fields of vLLM's engine arguments.
        started_at: when the process was started, as `time.time()`.
        prompt_tokens: of each prompt.
        answer_tokens: of each answer, two or more.
        streams: numbers of streams, in this order; none to only start.
        repetitive: likewise, with prompts that the model itself has written.
    """

    model: str
    vocabulary: int
    flags: Mapping[str, Any]
    started_at: float
    prompt_tokens: int
    answer_tokens: int
    streams: Sequence[int] = ()
    repetitive: Sequence[int] = ()


class Measured:
    """What a case has found so far.

    Args:
        path: the file that holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._notes: dict[str, Any] = {}

    def note(self, name: str, value: object) -> None:
        """Keep a value, in the file too; `a.b` is the field b of the object a."""
        into = self._notes
        *outer, last = name.split(".")
        for part in outer:
            into = into.setdefault(part, {})
        into[last] = value
        written = self._path.with_suffix(".new")
        written.write_text(json.dumps(self._notes))
        written.replace(self._path)


async def measure_all(ask: Ask, given: Specification, measured: Measured) -> None:
    """Note when the first token came, then the load at each number of streams."""
    first = prompts(0, 1, given.prompt_tokens, given.vocabulary)
    began = time.time()
    load = await measure(ask, first, 1, given.answer_tokens)
    measured.note("stages.first_token", load.first_token_p50_seconds)
    measured.note("stages.total", began + load.first_token_p50_seconds - given.started_at)
    used = 1
    for streams in given.streams:
        warm = prompts(used, streams, given.prompt_tokens, given.vocabulary)
        await measure(ask, warm, streams, WARM_TOKENS)
        count = max(streams * ROUNDS, LEAST_ANSWERS)
        asked = prompts(used + streams, count, given.prompt_tokens, given.vocabulary)
        used += streams + count
        load = await measure(ask, asked, streams, given.answer_tokens)
        measured.note(f"load.{streams}", asdict(load))


def run(case: Callable[[Specification, Measured], None]) -> NoReturn:
    """Do what the command line says, and end the process: SPECIFICATION (JSON) and RESULT (a path).

    The interpreter's own end could wait for the engine's threads.
    """
    given, result = sys.argv[1:]
    code = 0
    try:
        case(Specification(**json.loads(given)), Measured(Path(result)))
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
