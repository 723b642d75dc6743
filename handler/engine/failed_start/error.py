"""What has ended the start of the engine → the worker's error: its cause, and what to change."""

import logging
import re
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pydantic import ValidationError

from handler.engine.failed_start.out_of_memory import GIB, is_lasting, is_out_of_memory, shortage_of
from handler.engine.failed_start.report import HOST_WORDS, Failure
from handler.engine.failed_start.second_start import OutOfGpuMemory
from handler.engine.failed_start.smaller_configuration import advice, smaller_configuration
from handler.engine.flags.aliases import flags_to_variables
from handler.engine.interface import Configuration, LoweredSetting
from handler.errors import EngineStartFailed, InvalidSetting, StartError, one_line

log = logging.getLogger(__name__)

DID_NOT_START = "The engine did not start"
# vLLM of a core, and SGLang of a scheduler, that a signal has ended before it could report why.
KILLED = re.compile(r"(?:Failed core proc\(s\): \{[^}]*: |exit code: )-(\d+)")


def start_error(error: BaseException) -> StartError:
    """Return the error of a start that an exception in the worker's process has ended."""
    if isinstance(error, StartError):
        return error
    log.debug("the engine did not start", exc_info=error)
    if isinstance(error, ValidationError):  # of the engine's configuration as a whole
        reason = _complaints(error)
        return InvalidSetting(
            f"The engine refuses its settings: {reason}", lasting=not HOST_WORDS.search(reason)
        )
    while error.__cause__ is not None:
        error = error.__cause__
    text = one_line(str(error)) or repr(error)
    if killed := KILLED.search(text):
        text = (
            f"a process of the engine was ended by {_signal_name(int(killed[1]))}. After SIGKILL "
            "the container's memory may be too small: it must hold what the engine loads and "
            "compiles."
        )
    return EngineStartFailed(f"{DID_NOT_START}: {text}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have no name
        return f"signal {number}"


def reported_error(
    failure: Failure,
    configuration: Callable[[], Configuration | None],
    lowered: Sequence[LoweredSetting] = (),
) -> EngineStartFailed:
    """Return the error of a start that a process of the engine has ended.

    Args:
        failure: as that process has reported it.
        configuration: returns what the start has tried.
        lowered: by this start, which is the second one.
    """
    problem = f"{DID_NOT_START}: {flags_to_variables(failure.cause)}"
    lasting = is_lasting(failure)
    if lowered:
        problem = f"{problem.rstrip('.')}. The second start had {_texts(lowered)}."
    if not is_out_of_memory(failure) or (start := configuration()) is None:
        return EngineStartFailed(problem, lasting=lasting)
    shortage = shortage_of(failure, start)
    if lowered:
        names = {each.name for each in lowered}
        own = {field for field, name in start.settings.items() if name in names}
        start = replace(start, fixed=start.fixed - own)  # the user has not set these
    elif smaller := smaller_configuration(shortage, failure, start):
        log.warning(
            "out of GPU memory (%s: %.2f GiB missing): second start with %s",
            *(shortage.step, shortage.missing / GIB, _texts(smaller)),
        )
        return OutOfGpuMemory(problem, smaller)
    if lasting:  # else nothing of it has to change
        problem = f"{problem.rstrip('.')}. To start it, {advice(shortage, start)}."
    return EngineStartFailed(problem, lasting=lasting)


def _texts(lowered: Iterable[LoweredSetting]) -> str:
    return ", ".join(map(str, lowered))


def _complaints(error: ValidationError) -> str:
    """Return each setting that the engine's configuration refuses, its value and the reason."""
    texts = []
    for problem in error.errors(include_url=False):
        reason = one_line(problem["msg"].removeprefix("Value error, "))
        where = str(problem["loc"][-1]).upper() if problem["loc"] else ""
        value = problem["input"]
        named = f"{where}={value!r}: " if where and isinstance(value, str | int | float) else ""
        texts.append(named + reason)
    return "; ".join(dict.fromkeys(texts))
