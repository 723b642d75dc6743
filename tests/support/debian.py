"""Programs of Debian's packages that the tests run."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.support.environment import clean_environment

LOCK_SECONDS = 600.0  # that apt may be busy


def install(packages: Mapping[str, str]) -> None:
    """Install the packages whose programs are missing; fail where that is not possible.

    Several suites run at once, and apt refuses a second one; an image's build uses it too.

    Args:
        packages: by the name of a program in them.
    """
    with (Path(tempfile.gettempdir()) / "install-packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [package for name, package in packages.items() if shutil.which(name) is None]
        if missing:
            _install(missing)


def _install(missing: Iterable[str]) -> None:
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.fail(f"These tests need Debian's packages: {' '.join(install)}")
    environment = clean_environment(DEBIAN_FRONTEND="noninteractive")
    for command in (["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        deadline = time.monotonic() + LOCK_SECONDS
        while "Could not get lock" in done.stderr and time.monotonic() < deadline:
            time.sleep(2)
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"{' '.join(command)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
