"""The commands `deploy`, `status`, `logs` and `delete`: their arguments, and how they end."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from builder.cli import signals_like_ctrl_c, whole_number
from builder.deploy import deployment, order
from builder.deploy import logs as worker_logs
from builder.deploy.caller import USUAL, Pace
from builder.deploy.removal import remove
from builder.deploy.report import report
from builder.deploy.screen import Screen
from builder.deploy.session import KEY, connected, endpoint_named
from builder.errors import BuilderError
from handler.errors import StartError

Arguments = Sequence[str] | None


def deploy(
    argv: Arguments = None, environ: Mapping[str, str] = os.environ, pace: Pace = USUAL
) -> int:
    """Create an endpoint, or make it what is asked for; return the exit code."""
    options = order.parser().parse_args(argv)

    def work(screen: Screen) -> None:
        if options.dry_run and not environ.get(KEY):
            wanted = order.wanted(options, None, environ)
            screen(f"{KEY} is not set: nothing was compared, and this is a new endpoint's plan")
            deployment.planned(wanted, None, order.preset_of(options), screen)
            screen(deployment.UNCHANGED)
            return
        with connected(environ, pace, screen) as api:
            deployment.carry_out(options, environ, api, screen)

    return told("deploy", work)


def status(
    argv: Arguments = None, environ: Mapping[str, str] = os.environ, pace: Pace = USUAL
) -> int:
    """Print what an endpoint does at the moment; return the exit code."""
    options = _parser("status", "Print an endpoint's address, workers and jobs.").parse_args(argv)

    def work(screen: Screen) -> None:
        with connected(environ, pace, screen) as api:
            for line in report(api, endpoint_named(api, options.name)):
                screen(line)

    return told("status", work, ends_unread=True)


def logs(
    argv: Arguments = None, environ: Mapping[str, str] = os.environ, pace: Pace = USUAL
) -> int:
    """Print the logs of an endpoint's workers; return the exit code."""
    parser = _parser("logs", "Print the logs of the workers that an endpoint has at the moment.")
    parser.add_argument("--worker", help="of this one only")
    parser.add_argument("--follow", "-f", action="store_true", help="wait for more, until Ctrl-C")
    parser.add_argument(
        "--tail", type=whole_number(0), default=100, metavar="LINES", help="to begin with (100)"
    )
    parser.add_argument("--source", choices=("container", "system"), help="one of both (both)")
    options = parser.parse_args(argv)
    wanted = worker_logs.Order(
        options.tail, options.source, options.follow, is_named=options.worker is not None
    )

    def work(screen: Screen) -> None:
        with connected(environ, pace, screen) as api:
            endpoint = str(endpoint_named(api, options.name)["id"])
            listed = api.workers(endpoint).get("workers") or ()
            workers = [options.worker] if options.worker else [str(each["id"]) for each in listed]
            if not workers:
                screen(f"{options.name} has no worker at the moment, and so no logs")
            worker_logs.show(api, endpoint, workers, wanted, screen)

    return told("logs", work, ends_unread=True)


def delete(
    argv: Arguments = None, environ: Mapping[str, str] = os.environ, pace: Pace = USUAL
) -> int:
    """Delete an endpoint and its template; return the exit code."""
    parser = _parser("delete", "Delete an endpoint and its template.")
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    parser.add_argument("--force", action="store_true", help="also while jobs are in progress")
    options = parser.parse_args(argv)

    def work(screen: Screen) -> None:
        with connected(environ, pace, screen) as api:
            remove(api, options.name, options.yes, options.force, screen)

    return told("delete", work)


def told(command: str, work: Callable[[Screen], None], ends_unread: bool = False) -> int:
    """Do it; return the exit code, after one line on stderr for a failure.

    Args:
        command: its name, before that line.
        work: what is to be done; SIGTERM and SIGHUP end it like Ctrl-C.
        ends_unread: whether it is done when nobody reads on.
    """
    screen = Screen(ends_unread)
    try:
        with signals_like_ctrl_c():
            work(screen)
    except (BuilderError, StartError) as error:
        print(screen.hide(f"{command}: {error}"), file=sys.stderr, flush=True)
        return error.exit_code
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr, flush=True)
        return 1
    return 0


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m builder {command}",
        description=description,
        epilog=order.CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="of the endpoint")
    return parser
