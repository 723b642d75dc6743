"""`builder warm`: start the worker once, and leave what it compiled as an archive for images."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from builder.cli import Console, command_parser, run_command
from builder.errors import NothingCompiled, WorkerFailed

TEXT = """Starts the worker once with the settings of the environment, runs a job, and writes what
was compiled and tuned into FOLDER/KEY.tar. Run it in the image, on a machine with the GPU. An image
that has the archive in /opt/caches/ starts with it on a machine of the same key: GPU, engine and
build; the driver may be another.

Exit codes: 0 done; 1 interrupted; 2 a wrong argument; 4 the folder cannot be written; 11 the worker
failed; 12 it compiled nothing."""
ARCHIVES = "handler.startup.cache_archive"


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = command_parser("warm", TEXT)
    parser.add_argument(
        "--out", metavar="FOLDER", required=True, type=Path, help="folder for the archive"
    )
    parser.add_argument(
        "--test_input",
        metavar="JSON",
        help="run this job instead of the one in test_input.json: longer prompts and other formats "
        "compile more",
    )
    arguments = parser.parse_args(argv)
    return run_command("warm", lambda console: warm(arguments, console))


def warm(arguments: argparse.Namespace, console: Console) -> None:
    """Run a worker and archive its caches.

    Raises:
        WorkerFailed: the worker did not start, or the job failed.
        NothingCompiled: there is nothing to archive.
        OSError: the folder cannot be written.
    """
    arguments.out.mkdir(parents=True, exist_ok=True)
    # On the same disk as the archive: compiled code is gigabytes, and a container's is small.
    with tempfile.TemporaryDirectory(dir=arguments.out, prefix=".warm-") as root:
        job = [] if arguments.test_input is None else ["--test_input", arguments.test_input]
        environ = {**os.environ, "CACHE_ROOT": root, "VOLUME_CACHE": "0", "SERVE_MODE": "local"}
        done = subprocess.run([sys.executable, "-m", "handler", *job], env=environ)
        if done.returncode != 0:
            raise WorkerFailed(f"the worker ended with exit code {done.returncode}")
        packed = subprocess.run(
            [sys.executable, "-m", ARCHIVES, "pack", root, arguments.out],
            stdout=subprocess.PIPE,
            text=True,
        )
        if packed.returncode != 0:
            raise WorkerFailed("the archive was not written")
    paths = packed.stdout.splitlines()
    if not paths:
        raise NothingCompiled("the worker compiled nothing, or its variables name other folders")
    for path in paths:
        console.print(f"{path}  {Path(path).stat().st_size / 1e6:.1f} MB")
