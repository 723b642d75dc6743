"""Shared code of the builder's commands: dispatch, arguments, output, signals and exit codes."""

import argparse
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

from builder.errors import BuilderError
from handler.errors import StartError

HELP = """From a model's name to a running endpoint: the builder's commands.

    python -m builder plan MODEL          shows which GPU fits a model, and what it costs
    python -m builder presets             lists models with settings and GPUs that fit
    python -m builder fetch MODEL         downloads a quantized checkpoint and verifies it
    python -m builder quantize MODEL      makes an AWQ or FP8 checkpoint
    python -m builder warm --out FOLDER   archives what an engine compiles, for images
    python -m builder deploy PRESET       creates or changes a Runpod endpoint, and tests it
    python -m builder status NAME         shows an endpoint's address, workers and jobs
    python -m builder logs NAME           shows the logs of its workers
    python -m builder delete NAME         deletes an endpoint and its template

Each command has --help."""
COMMANDS = {
    "plan": ("builder.plan.command", "main"),
    "presets": ("builder.presets", "main"),
    "fetch": ("builder.fetch.__main__", "main"),
    "quantize": ("builder.quantize.command", "main"),
    "warm": ("builder.warm", "main"),
    "deploy": ("builder.deploy.commands", "deploy"),
    "status": ("builder.deploy.commands", "status"),
    "logs": ("builder.deploy.commands", "logs"),
    "delete": ("builder.deploy.commands", "delete"),
}
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_INTERRUPTED = 1
EXIT_ARGUMENT = 2
EXIT_PACKAGES = 4
EXIT_FILES = 4
STARS = "***"
MIN_SECRET_CHARACTERS = 4  # a shorter text would also be found inside ordinary words


def main(argv: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(HELP)
        return 0
    if name not in COMMANDS:
        print(
            f"builder: unknown command {name!r}, must be one of {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        return EXIT_ARGUMENT
    module, function = COMMANDS[name]
    try:
        command = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        print(
            f"builder: {name} needs the package {error.name}, which this Python does not have: "
            f"run .venv/bin/python -m builder {name}; `make run` creates that environment.",
            file=sys.stderr,
        )
        return EXIT_PACKAGES
    return int(command(argv[1:]))


def exit_process(code: int) -> NoReturn:
    """Exit; after an interruption at once, because an open download could delay the exit."""
    if code == EXIT_INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class Console:
    """Prints lines to stdout without delay, with stars in place of secrets.

    When stdout is closed (`| head`), the command continues without output.
    """

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def hide(self, values: Iterable[str]) -> None:
        """Register secrets that must never be printed."""
        self._secrets.update(value for value in values if len(value) >= MIN_SECRET_CHARACTERS)

    def print(self, line: object = "") -> None:
        try:
            print(self.without_secrets(str(line)), flush=True)
        except BrokenPipeError:
            _discard_stdout()

    def without_secrets(self, text: str) -> str:
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, STARS)
        return text


def run_command(
    name: str, work: Callable[[Console], None], *, exit_os_error: int = EXIT_FILES
) -> int:
    """Run a command and return its exit code; an error is printed as one line on stderr.

    Args:
        name: the command's name, in front of each line on stderr.
        work: the command's function; SIGTERM and SIGHUP interrupt it like Ctrl-C.
        exit_os_error: the exit code for a full disk or a missing permission.
    """
    console = Console()
    logging.basicConfig(format=f"{name}: %(message)s", level=logging.INFO, stream=sys.stderr)
    for library in ("httpx", "httpx2"):  # huggingface-hub's, before 2.0 and since
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        with signals_like_ctrl_c():
            work(console)
    except (BuilderError, StartError) as error:
        code, text = error.exit_code, str(error)
    except BrokenPipeError:  # from a `print` that is not the console's
        _discard_stdout()
        return 0
    except OSError as error:
        code, text = exit_os_error, f"{error.filename or 'writing'}: {error.strerror or error}"
    except KeyboardInterrupt:
        # A progress bar interrupted in its constructor raises again in its destructor.
        sys.unraisablehook = lambda _: None
        code, text = EXIT_INTERRUPTED, "interrupted"
    else:
        return 0
    print(console.without_secrets(f"{name}: {text}"), file=sys.stderr, flush=True)
    return code


def _discard_stdout() -> None:
    """Redirect stdout to /dev/null: the interpreter flushes it again at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def signals_like_ctrl_c() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt; an ignored one (nohup) stays ignored."""
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    previous = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let signals that interrupt wait for the end of the block; a process it forks holds them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt


def command_parser(command: str, text: str, prog: str | None = None) -> argparse.ArgumentParser:
    """Return a command's parser.

    Args:
        command: its name after `python -m builder`.
        text: the description; its part from "Exit codes" on is shown after the arguments.
        prog: the command line in the usage, if it is another one.
    """
    text, _, codes = text.partition("\n\nExit codes")
    return argparse.ArgumentParser(
        prog=prog or f"python -m builder {command}",
        description=text,
        epilog=f"Exit codes{codes}" if codes else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def whole_number(minimum: int) -> Callable[[str], int]:
    """Return a type for an argument: a whole number that is at least `minimum`."""

    def parse_number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {minimum} up")
        return int(text)

    return parse_number


def aligned(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Return the lines of a table; the columns whose numbers are in `left` begin at their left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
