"""The worker as a process: what it starts with, what it ends with, and what it leaves behind.

Each test here has an engine of its own, or none: they end the worker.
"""

import json
import os
import re
import shutil
import signal
import subprocess

import psutil
import pytest

from runpod_local import JobState, running_platform, running_worker
from tests.support.conditions import wait_until
from tests.support.environment import (
    MODELS,
    NAME,
    PYTHON,
    ROOT,
    START_SECONDS,
    VARIANT,
    worker_command,
    worker_environment,
)
from tests.support.hub import Repository, running_hub
from tests.support.processes import run_worker, running

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
STORY = {"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def runs_on_a_volume(tmp_path_factory):
    """Two workers of one endpoint, one after the other, whose model is on a hub.

    The first answers test_input.json. The second gets a job that fails. Each of them is on a
    machine of its own, with the same volume. A run has the paths of what vLLM cached.
    """
    folder = tmp_path_factory.mktemp("endpoint")
    volume, cache = folder / "volume", folder / "cache"
    volume.mkdir()
    failing = json.dumps({"input": {"prompt": "Hi", "temprature": 1}})
    with running_hub(public=Repository(MODELS / f"{NAME}-bf16")) as hub:
        environment = worker_environment(
            MODEL_NAME="org/public",
            HF_ENDPOINT=hub.url,
            HF_HUB_DISABLE_XET="1",
            RUNPOD_ENDPOINT_ID="e1",
            SERVE_MODE="local",
            BASE_PATH=str(volume),
            CACHE_ROOT=str(cache),
        )
        runs = []
        first, second = (), ("--test_input", failing)
        for job in (first, first, first, second):
            if job == first and any(volume.rglob("*.tar")):
                continue  # a machine that is busy may need a second run to save the cache in time
            done = run_worker(*job, **environment)
            done.cached = [path.name for path in cache.rglob("*.json")]
            shutil.rmtree(cache)
            runs.append(done)
        return runs[-2:]


def assert_paris(done):
    """Assert that a worker has printed its answer of test_input.json."""
    assert done.returncode == 0, done.stderr
    text, usage, first, speed = [line for line in done.stdout.splitlines() if line][-4:]
    assert "Paris" in text
    assert usage.startswith("usage                37 prompt + ")
    assert first.startswith("time to first token  ")
    assert speed.startswith("tokens per second    ")


def test_vllm_answers_test_input_json_with_a_model_from_the_hub(runs_on_a_volume):
    """Without the platform's environment the file's job really runs: text, usage, speed."""
    first, _ = runs_on_a_volume
    assert_paris(first)
    assert "model org/public (unquantized) from the hub" in first.stdout


def test_sglang_answers_test_input_json():
    assert_paris(run_worker(**worker_environment("bf16", "sglang")))


def test_a_job_that_fails_ends_the_worker_with_code_1_and_one_line(runs_on_a_volume):
    """The job comes from --test_input, as the SDK has it."""
    _, second = runs_on_a_volume
    assert second.returncode == 1
    assert second.stdout.splitlines()[-1] == (
        "The job failed: The engine has no field 'temprature' on /v1/completions: "
        "did you mean 'temperature'?"
    )


def test_a_worker_finds_on_the_volume_what_an_earlier_one_has_compiled(runs_on_a_volume):
    """On a CPU: what vLLM has found out about the model's class."""
    for known, done in enumerate(runs_on_a_volume):
        assert f"compile cache: restored {known} files from the volume" in done.stdout
        assert done.cached == ["vllm-model_executor-models-llama-LlamaForCausalLM.json"]


@pytest.mark.parametrize(
    ("code", "from_hub", "offline", "linked"),
    [
        (None, False, True, False),
        (None, True, False, False),
        ("org/missing", False, True, False),
        ("org/code", False, False, True),
        ("org/code", True, False, True),
    ],
    ids=["local", "hub", "code is missing", "code from the hub", "both from the hub"],
)
def test_worker_and_core_know_of_the_hub_what_the_variables_say(
    tmp_path, code, from_hub, offline, linked
):
    """Also where the engine was imported before the model was found, and the client earlier."""
    folder, repository = tmp_path / "model", tmp_path / "code"
    shutil.copytree(MODELS / f"{NAME}-bf16", folder, copy_function=os.symlink)
    if code:
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {"AutoConfig": f"{code}--configuration.Config"}
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps(config))
    repository.mkdir()
    (repository / "configuration.py").write_text("")
    cache = tmp_path / "hub"
    with running_hub(public=Repository(folder), code=Repository(repository)) as hub:
        environment = worker_environment(
            MODEL_NAME="org/public" if from_hub else str(folder),
            HF_ENDPOINT=hub.url,
            HF_HUB_DISABLE_XET="1",
            HF_HUB_CACHE=str(cache),
            CACHE_ROOT=str(tmp_path / "cache"),
            VLLM_LOGGING_LEVEL="ERROR",
        )
        done = subprocess.run(
            [PYTHON["vllm"], "-m", "tests.engine.hub_state"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
    used = str(tmp_path / "cache" / "hub" if linked else cache)
    states = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert states == 2 * [
        {"variables": ["1" if offline else None, used], "constants": [offline, used]}
    ], done.stderr


@pytest.mark.needs_a_model
def test_an_fp8_checkpoint_counts():
    """Of a capital the model is not sure, and another CPU's FP8 would say another word."""
    job = {"prompt": "One, two, three, four, five,", "max_tokens": 6, "temperature": 0}
    done = run_worker("--test_input", json.dumps({"input": job}), **worker_environment("fp8"))
    assert done.returncode == 0, done.stderr
    text, usage, _ = [line for line in done.stdout.splitlines() if line][-3:]
    assert text == " six, seven, eight,"
    assert usage == "usage                10 prompt + 6 completion tokens"


@pytest.mark.parametrize("engine", PYTHON)
def test_a_flag_that_the_engine_refuses_ends_with_code_2(engine):
    """The engine's parser speaks before the weights are loaded."""
    done = run_worker(**worker_environment(VARIANT[engine], engine, DTYPE="int3"))
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert said.startswith("DTYPE='int3': invalid choice: 'int3' (choose from 'auto', ")


@pytest.mark.parametrize(
    ("engine", "variable", "owner"),
    [("vllm", "SCHEDULE_POLICY", "SGLang"), ("sglang", "COMPILATION_CONFIG", "vLLM")],
    ids=["vllm", "sglang"],
)
def test_a_setting_that_only_the_other_engine_has_ends_with_code_2(engine, variable, owner):
    """It cannot be honoured, so nothing starts."""
    title = {"vllm": "vLLM", "sglang": "SGLang"}[engine]
    done = run_worker(**worker_environment("bf16", engine, **{variable: "lpm"}))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"{variable}='lpm' is a setting of {owner}, and {title} has no equivalent: remove it, "
        f"or use the image with {owner}."
    )


REFUSALS = {
    "vllm": "User-specified max_model_len (1000000) is greater than the derived max_model_len",
    "sglang": "Warning: User-specified context_length (1000000) is greater than the derived",
}


@pytest.mark.parametrize("engine", PYTHON)
def test_settings_that_do_not_fit_the_model_end_with_code_2(engine):
    """The parser takes a context of a million tokens, the model does not."""
    done = run_worker(**worker_environment(VARIANT[engine], engine, MAX_MODEL_LEN="1000000"))
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"The engine refuses its settings: {REFUSALS[engine]}")


@pytest.mark.parametrize("engine", PYTHON)
def test_a_checkpoint_without_weights_ends_with_code_3(tmp_path, engine):
    """The configuration promises weights that are not there."""
    for file in (MODELS / f"{NAME}-bf16").glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    done = run_worker(**worker_environment(engine=engine, MODEL_NAME=str(tmp_path)))
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        f"{tmp_path.name} has no weights (*.safetensors *.bin *.pt *.gguf)."
    )


@pytest.mark.needs_a_model
def test_an_engine_that_does_not_start_ends_with_code_4():
    """Its core process refuses what its parser has let through; SGLang's parser judges it."""
    done = run_worker(**worker_environment("bf16", LOAD_FORMAT="nosuch"))
    assert done.returncode == 4
    assert "nosuch" in done.stderr.splitlines()[-1].removeprefix("The engine did not start: ")


@pytest.mark.needs_a_model
def test_a_context_that_does_not_fit_the_kv_cache_is_shortened_by_a_second_start():
    """vLLM's own check, with its CPU build; both cores are forks."""
    done = run_worker(**worker_environment("bf16", KV_CACHE_MEMORY_BYTES="100000000"))
    assert done.returncode == 0, done.stderr
    assert "out of GPU memory (KV cache: 0.09 GiB missing): second start with " in done.stdout
    [fits] = set(re.findall(r"the estimated maximum model length is (\d+)", done.stderr))
    assert f"the second start has succeeded: set MAX_MODEL_LEN={fits} to start once" in done.stdout


@pytest.mark.parametrize("engine", PYTHON)
def test_jobs_that_outlast_the_drain_fail_with_what_they_have(engine):
    """DRAIN_TIMEOUT is over: what was streamed stays, the job says why it ended."""
    with (
        running_platform(ping_interval_seconds=1) as platform,
        running_worker(
            platform,
            worker_command(engine),
            worker_environment("bf16", engine, DRAIN_TIMEOUT="2", REQUEST_TIMEOUT="20"),
            ready_within_seconds=START_SECONDS,
        ) as worker,
    ):
        # SGLang is slower, and reserves room for what is asked for.
        story = {**STORY, "max_tokens": 6000 if engine == "vllm" else 1500}
        timed_out = platform.wait(platform.submit(story), 300)
        error = json.loads(timed_out.error)["error"]
        assert (error["code"], error["message"]) == (
            408,
            "The request took longer than REQUEST_TIMEOUT=20 seconds.",
        )
        assert len(timed_out.chunks) > 5
        job_id = platform.submit(story)
        platform.wait_until(job_id, lambda job: len(job.chunks) > 1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
        job = platform.job(job_id)
        error = json.loads(job.error)["error"]
        assert (job.state, error["code"], error["message"]) == (
            JobState.FAILED,
            503,
            "The worker was stopped before the response was complete.",
        )
        assert len(job.chunks) > 1


@pytest.mark.parametrize("engine", PYTHON)
def test_sigterm_during_the_start_leaves_nothing_behind(engine):
    """The platform may change its mind before the engine is up."""
    worker = subprocess.Popen(
        worker_command(engine),
        cwd=ROOT,
        env=worker_environment(VARIANT[engine], engine),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process = psutil.Process(worker.pid)
        wait_until(lambda: process.children(recursive=True), START_SECONDS)
        family = process.children(recursive=True)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 128 + signal.SIGTERM
        assert running(family) == []
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
