"""What the builder's commands have in common: how they are asked, and how they say what happens."""

import argparse
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from builder.errors import BuildError
from handler.errors import StartError

EXIT_INTERRUPTED = 1
EXIT_FILES = 4


def told(command: str, work: Callable[[], None]) -> int:
    """Do it, saying on stderr what happens; return the exit code, after one line for a failure.

    Args:
        command: its name, before each line.
        work: what is to be done; SIGTERM and SIGHUP end it like Ctrl-C.
    """
    logging.basicConfig(format=f"{command}: %(message)s", level=logging.INFO, stream=sys.stderr)
    for name in ("httpx", "httpx2"):  # huggingface-hub's, before 2.0 and since
        logging.getLogger(name).setLevel(logging.WARNING)
    log = logging.getLogger(command)
    try:
        with ending_in_order():
            work()
    except (BuildError, StartError) as error:
        log.error("%s", error)
        return error.exit_code
    except OSError as error:
        log.error("%s: %s", error.filename or "writing", error.strerror or error)
        return EXIT_FILES
    except KeyboardInterrupt:
        # What was cut off while it was made, such as a progress bar, complains when it goes.
        sys.unraisablehook = lambda _: None
        log.error("interrupted")
        return EXIT_INTERRUPTED
    return 0


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what is inside like Ctrl-C; one that is ignored (nohup) stays so.

    Raises:
        KeyboardInterrupt: one of them came.
    """
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, _leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def parser(command: str, text: str, prog: str | None = None) -> argparse.ArgumentParser:
    """Return a command's parser, whose help is its module's docstring.

    Args:
        command: its name behind `python -m builder`.
        text: the docstring; what follows "Exit codes" comes after the arguments.
        prog: another way to call it.
    """
    text, _, codes = text.partition("\n\nExit codes")
    return argparse.ArgumentParser(
        prog=prog or f"python -m builder {command}",
        description=text,
        epilog=f"Exit codes{codes}" if codes else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def number(least: int) -> Callable[[str], int]:
    """Return a type for an argument: a whole number that is not too small."""

    def read_number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} should be a whole number from {least} on")
        return int(text)

    return read_number


def _leave(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt  # what is half done is removed on the way out
