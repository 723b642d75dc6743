"""The frame of the builder's commands."""

import os
import signal

import pytest

from builder.cli import Console, run_command
from builder.errors import CheckpointRefused
from handler.errors import ModelUnavailable


def raising(error):
    def work(_):
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        pytest.param(CheckpointRefused("org/name has no config.json."), 2, "org/name has no "),
        pytest.param(ModelUnavailable("org/name: not found."), 3, "org/name: not found."),
        pytest.param(OSError(28, "No space left on device", "/models"), 4, "/models: No space "),
        pytest.param(OSError(28, "No space left on device"), 4, "writing: No space left on "),
        pytest.param(KeyboardInterrupt(), 1, "interrupted"),
    ],
    ids=["builder", "hub", "file", "stdout", "ctrl-c"],
)
def test_a_failure_is_one_line_and_an_exit_code(error, code, line, capsys):
    assert run_command("fetch", raising(error)) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"fetch: {line}")


def test_a_command_may_have_another_exit_code_for_files():
    assert run_command("deploy", raising(OSError(28, "full")), exit_os_error=1) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_like_ctrl_c(number, capsys):
    before = signal.getsignal(number)
    assert run_command("fetch", lambda _: os.kill(os.getpid(), number)) == 1
    assert capsys.readouterr().err == "fetch: interrupted\n"
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_command("fetch", lambda _: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_secrets_are_hidden_in_output_and_errors(capsys):
    def work(console):
        console.hide(["hf_secret", "hf_secret_too", "abc"])
        console.print("with hf_secret_too and abc")
        raise CheckpointRefused("not with hf_secret")

    assert run_command("fetch", work) == 2
    assert capsys.readouterr() == ("with *** and abc\n", "fetch: not with ***\n")


def test_a_console_prints_what_it_is_given(capsys):
    Console().print(12)
    Console().print()
    assert capsys.readouterr().out == "12\n\n"
