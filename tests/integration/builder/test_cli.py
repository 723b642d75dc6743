"""`python -m builder` names its commands, and what it cannot run."""

import subprocess
import sys

import pytest

from builder.cli import COMMANDS
from tests.support.environment import ROOT, clean_environment


def builder(*arguments, options=()):
    command = [sys.executable, *options, "-m", "builder", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [(), ("--help",)], ids=["nothing", "help"])
def test_the_commands_are_listed(arguments):
    """Each with what it is for."""
    code, out, _ = builder(*arguments)
    assert code == 0
    assert [line.split()[3] for line in out.splitlines() if "python -m" in line] == list(COMMANDS)


def test_another_command_is_refused():
    """With those that there are."""
    assert builder("plann") == (
        2,
        "",
        f"builder: unknown command 'plann', must be one of {', '.join(COMMANDS)}.\n",
    )


def test_a_python_without_the_packages_is_told_which_to_use():
    """One sentence instead of a traceback."""
    code, _, err = builder("plan", "org/m", options=("-S",))
    assert (code, err.count("\n")) == (4, 1)
    assert "run .venv/bin/python -m builder plan; `make run` creates" in err


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "fetch"])
def test_each_command_has_help(command):
    """With its name, what it does, and its exit codes."""
    code, out, _ = builder(command, "--help")
    assert (code, out.split("[-h]")[0].strip()) == (0, f"usage: python -m builder {command}")
    assert "Exit codes" in out


def test_an_interruption_while_something_is_made_is_one_line():
    """A progress bar that is not whole complains when it goes, and nobody wants to know."""
    code = """
from tqdm import tqdm
from builder.cli import run_command

def interrupt(*_):
    raise KeyboardInterrupt

tqdm._get_free_pos = interrupt
raise SystemExit(run_command("fetch", lambda _: list(tqdm([1]))))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "fetch: interrupted\n")
