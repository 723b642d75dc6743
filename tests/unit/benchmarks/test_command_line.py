"""Options and exit codes of `python -m benchmarks`."""

import pytest

from benchmarks import machine
from benchmarks.__main__ import main


def test_without_a_gpu_the_exit_code_is_2(monkeypatch, capsys):
    monkeypatch.setattr(machine, "describe", lambda: {"vllm": "0.26.0"})
    assert main(["--device", "gpu"]) == 2
    assert capsys.readouterr() == (
        "",
        "No CUDA device is visible; --device cpu runs without one.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "'nothing' must be one of main, pace"),
        (["--variants", "fp8,int3"], "'int3' must be one of fp8, fp8-worker"),
        (["--concurrency", "1,0"], "'0' must be a whole number, 1 or more"),
        (["--output-tokens", "1"], "'1' must be a whole number, 2 or more"),
        (["--prompt-tokens", "2000"], "prompt and output have 2128 tokens; the most is 2048"),
        (["--executor", "a.B"], "--executor needs --device simulated"),
        (["--env", "NAME"], "'NAME' must be NAME=VALUE"),
    ],
    ids=["case", "variant", "level", "output", "context", "executor", "variable"],
)
def test_a_bad_option_stops_the_start(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
