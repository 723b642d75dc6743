"""The command line of the worker: settings, then serve or run one job; errors → exit codes.

0  the queue or HTTP server was shut down, or the local job succeeded
1  the local job failed, or an unexpected error
2  invalid setting              3  model unavailable
4  the engine did not start     5  the engine died
6  a thread or task of the worker ended by an exception
143, 130  SIGTERM or SIGINT during the start, or again during the shutdown
"""

import argparse
import contextlib
import logging
import sys
import traceback
from collections.abc import Mapping, Sequence

from handler import logs
from handler.engine.failed_start.second_start import OutOfGpuMemory, SecondStart
from handler.engine.failed_start.second_start import begin as begin_second_start
from handler.engine.flags.aliases import flag_rules
from handler.engine.flags.config_file import merge_config_file
from handler.engine.sglang import flags as sglang_flags
from handler.engine.vllm import flags as vllm_flags
from handler.errors import EXIT_FAILED, StartError, hide_secrets, one_line, redact
from handler.serve import local
from handler.serve.failed_start import after_failed_start
from handler.settings.environ import (
    clean_environ,
    export_unquoted,
    load_settings,
    setting_rules,
)
from handler.startup.timings import StartupStage, StartupTimings, process_start_time
from handler.worker_process import WorkerProcess, signal_handlers_restored

log = logging.getLogger("handler")

SDK_OPTIONS = (
    "SERVE_MODE=http serves the queue's API and OpenAI's on PORT, `make endpoint` runs a queue on "
    "this machine, and RUNPOD_LOG_LEVEL sets the SDK's log level."
)
REFUSED_FLAGS = vllm_flags.REFUSED | sglang_flags.REFUSED


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the worker and return the process's exit code."""
    first_environ = dict(environ)
    timings = _begun_timings(SecondStart.of(environ))
    options = _parse_arguments(arguments)
    config_file = None
    variables = dict(environ)
    is_local = options.test_input is not None
    worker: WorkerProcess | None = None

    def failed(error: BaseException, reason: str) -> None:
        if worker is not None and worker.has_started:
            return
        with signal_handlers_restored(), contextlib.suppress(SystemExit):
            try:
                if not is_local:
                    after_failed_start(error, reason, variables)
            except Exception:  # the start's own reason and exit code follow
                print(redact(traceback.format_exc()), file=sys.stderr, end="", flush=True)

    try:
        variables, unset = clean_environ(environ, setting_rules(), flag_rules())
        export_unquoted(environ, variables)
        variables, config_file = merge_config_file(variables, REFUSED_FLAGS)
        settings = load_settings(variables)
        logs.configure_logging(settings.log_level, settings.log_format)
        hide_secrets(settings.secrets())
        if unset:
            log.info("read as not set: %s", ", ".join(unset))
        if is_local or settings.mode == "local":
            job = local.load_job(options.test_input)
            return WorkerProcess(settings, variables, timings).run_local(job)
        worker = WorkerProcess(settings, variables, timings)
        return worker.serve()
    except OutOfGpuMemory as error:
        begin_second_start(error.lowered, first_environ)
    except StartError as error:
        reason = one_line(config_file.explain(str(error)) if config_file else str(error))
        failed(error, reason)
        sys.stdout.flush()
        print(redact(reason), file=sys.stderr, flush=True)
        return error.exit_code
    except SystemExit as exit:  # from a signal or a library
        if isinstance(exit.code, int | None):
            return exit.code or 0
        print(exit.code, file=sys.stderr, flush=True)
        return EXIT_FAILED
    except Exception as error:
        failed(error, f"{type(error).__name__}: {error}")
        print(redact(traceback.format_exc()), file=sys.stderr, end="", flush=True)
        return EXIT_FAILED


def _begun_timings(second_start: SecondStart | None) -> StartupTimings:
    """Return the stages until now; a second start counts from the begin of the first one."""
    began = process_start_time()  # which exec does not change
    timings = StartupTimings(began)
    if second_start is not None:
        timings.add(StartupStage("first start", began, second_start.began - began))
        began = second_start.began
    timings.since(began, "interpreter")
    return timings


def _parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m handler",
        description="Serves a Runpod queue on a queue endpoint, HTTP if PORT is set or on the rest "
        "of the platform, and otherwise runs the job in test_input.json. SERVE_MODE=queue, http or "
        "local overrides this choice. All settings are environment variables: see "
        "docs/settings.md.",
    )
    parser.add_argument(
        "--test_input",
        metavar="JSON",
        help="run this job instead of the one in test_input.json, whatever SERVE_MODE is",
    )
    options, others = parser.parse_known_args(arguments)
    if refused := [each for each in others if each.startswith("--rp_")]:
        name = refused[0].partition("=")[0]
        parser.error(f"{name} is an option of the Runpod SDK: {SDK_OPTIONS}")
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    return options
