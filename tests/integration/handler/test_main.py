"""Starts that end before the engine is imported."""

import signal
import subprocess

import pytest

from tests.support.environment import ROOT, worker_command, worker_environment
from tests.support.model_folders import model_folder
from tests.support.processes import run_worker


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "message"),
    [
        ((), {"MAX_CONCURRENCY": "many"}, 2, "MAX_CONCURRENCY='many' must be "),
        (("--test_input", "{"), {}, 2, "--test_input is not JSON: "),
        (("--test_input", "[]"), {}, 2, '--test_input must be a JSON object with an "input".'),
        ((), {"PROMETHEUS_PUSHGATEWAY": "nope"}, 2, "PROMETHEUS_PUSHGATEWAY='nope' must be a URL"),
        (
            (),
            {"PROMETHEUS_PUSHGATEWAY": "ftp://me:word@host"},
            2,
            "PROMETHEUS_PUSHGATEWAY='ftp://***@host' must be a URL",
        ),
        ((), {"PREFIX_WARMUP": "[1]"}, 2, "PREFIX_WARMUP='[1]' must be a JSON list, "),
        ((), {"QUANTIZATION": "fp8"}, 2, "QUANTIZATION='fp8' contradicts the checkpoint: "),
        ((), {"MODEL_NAME": "/none"}, 3, "MODEL_NAME='/none' is a path that does not exist"),
    ],
    ids=[
        "setting",
        "not json",
        "no input",
        "gateway",
        "password",
        "prefix",
        "quantization",
        "model",
    ],
)
def test_a_bad_start_ends_with_its_code_and_one_line(arguments, environ, code, message):
    """Before the engine is imported, and without a traceback."""
    done = run_worker(*arguments, **{**worker_environment("awq"), **environ})
    assert (done.returncode, done.stdout) == (code, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(message)


def test_a_clone_without_its_weights_is_named(tmp_path):
    """Before the engine is imported."""
    folder = model_folder(tmp_path / "m", model__safetensors="w")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4976698672\n"
    (folder / "model.safetensors").write_text(pointer)
    done = run_worker(**{**worker_environment("awq"), "MODEL_NAME": str(folder)})
    assert (done.returncode, done.stdout, done.stderr) == (
        3,
        "",
        f"m in {folder}: model.safetensors is a Git LFS pointer of {len(pointer)} bytes, not the "
        "file: run `git lfs pull` where it was cloned, or download it from the hub.\n",
    )


def test_a_file_of_flags_is_named_in_errors_before_anything_loads(tmp_path):
    """Its settings are the worker's as well."""
    file = tmp_path / "flags.yaml"
    for text, message in (
        ("ssl-keyfile: key.pem", f"{file}: ssl-keyfile cannot be set: "),
        ("log-format: xml", f"{file}: LOG_FORMAT='xml' must be 'text' or 'json'."),
        ("quantization: fp8", "QUANTIZATION='fp8' contradicts the checkpoint: "),
    ):
        file.write_text(text)
        done = run_worker(**worker_environment("awq", VLLM_CONFIG_FILE=str(file)))
        assert done.returncode == 2
        assert done.stderr.removeprefix(f"{file}: ").startswith(message.removeprefix(f"{file}: "))
        assert done.stderr.startswith(f"{file}: ")


def test_what_was_read_as_not_set_is_one_line(tmp_path):
    """Before the model is looked for."""
    given = {"MODEL_NAME": "None", "REQUEST_TIMEOUT": "0"}
    done = run_worker("--test_input", '{"input": {}}', **worker_environment("awq", **given))
    assert done.returncode == 2
    [line] = done.stdout.splitlines()
    assert line.endswith(
        "read as not set: MODEL_NAME='None' (the word for no value), "
        "REQUEST_TIMEOUT='0' (must be above zero)"
    )
    assert done.stderr.startswith("MODEL_NAME is not set: ")


def test_a_missing_test_input_is_said(tmp_path):
    """In a folder without the file."""
    done = run_worker(cwd=tmp_path, **worker_environment("awq"))
    assert (done.returncode, done.stderr) == (
        2,
        "test_input.json cannot be read: No such file or directory.\n",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_worker_is_imported_ends_it_in_order(tmp_path, number):
    """With its code, and without a traceback."""
    (tmp_path / "uvloop.py").write_text(
        "import time; print('importing', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        worker_command("vllm"),
        cwd=ROOT,
        env=worker_environment("awq") | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout.readline() == "importing\n"
        worker.send_signal(number)
        assert (worker.wait(), worker.stderr.read()) == (128 + number, "")


SPAWNING = """
import gc, multiprocessing, os, runpy
import handler.command_line

def main(arguments, environ):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(os.getpgrp) != os.getpgrp())
        print(pool.apply(gc.isenabled), pool.apply(gc.get_freeze_count) > 1000)
    return 0

handler.command_line.main = main
runpy.run_module("handler", run_name="__main__", alter_sys=True)
"""


def test_a_spawned_process_of_the_engine_is_out_of_reach_of_ctrl_c_and_collects_garbage():
    """It is in a process group of its own, so requests that run can end; imports are frozen."""
    done = subprocess.run(
        [*worker_command("vllm")[:1], "-c", SPAWNING], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\nTrue True\n", "")


@pytest.mark.parametrize(
    "option", ["--rp_serve_api", "--rp_api_port=8000", "--rp_log_level", "--rp_debugger"]
)
def test_an_option_of_the_sdk_is_refused_with_what_to_use(option):
    done = run_worker(option, **worker_environment("awq"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        f"python -m handler: error: {option.partition('=')[0]} is an option of the Runpod SDK: "
        "SERVE_MODE=http serves the queue's API and OpenAI's on PORT, `make endpoint` runs a queue "
        "on this machine, and RUNPOD_LOG_LEVEL sets the SDK's log level."
    )


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RUNPOD_POD_ID": "p"}, "API_KEY is not set, so anyone who can reach this port could"),
        (
            {"RUNPOD_ENDPOINT_ID": "e", "HEALTH_CHECK_PATH": "/health"},
            "HEALTH_CHECK_PATH='/health' is another route of the worker: ",
        ),
    ],
    ids=["a Pod without a key", "a route"],
)
def test_on_the_platform_http_is_refused_with_its_reason(environ, message):
    variables = worker_environment("awq", STARTUP_ERROR_SECONDS="0", **environ)
    done = run_worker(**variables)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(message)
