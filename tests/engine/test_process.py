"""The worker as a process: what it starts with, what it ends with, and what it leaves behind.

Each test here has an engine of its own, or none: they end the worker.
"""

import json
import os
import shutil
import signal
import subprocess
import time

import psutil
import pytest

from runpod_local import JobState, running_platform, running_worker
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
from tests.support.processes import arguments

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
STORY = {"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": True}


def run(*arguments, cwd=ROOT, **environ):
    """Run the worker to its end without a platform."""
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "SGLANG_LOGGING_LEVEL": "ERROR"}
    return subprocess.run(
        [*worker_command(environ.get("ENGINE", "vllm")), *arguments],
        env={"PYTHONPATH": str(ROOT), **quiet, **environ},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )


@pytest.mark.parametrize(("engine", "variant"), [("vllm", "awq"), ("sglang", "bf16")])
def test_test_input_json_is_answered(engine, variant):
    """Without the platform's environment the file's job really runs: text, usage, speed."""
    done = run(**worker_environment(variant, engine))
    assert done.returncode == 0, done.stderr
    text, usage, first, speed = [line for line in done.stdout.splitlines() if line][-4:]
    assert "Paris" in text
    assert usage.startswith("usage                37 prompt + ")
    assert first.startswith("time to first token  ")
    assert speed.startswith("tokens per second    ")


def test_an_fp8_checkpoint_counts():
    """Of a capital the model is not sure, and another CPU's FP8 would say another word."""
    job = {"prompt": "One, two, three, four, five,", "max_tokens": 6, "temperature": 0}
    done = run("--test_input", json.dumps({"input": job}), **worker_environment("fp8"))
    assert done.returncode == 0, done.stderr
    text, usage, _ = [line for line in done.stdout.splitlines() if line][-3:]
    assert text == " six, seven, eight,"
    assert usage == "usage                10 prompt + 6 completion tokens"


def test_what_one_worker_has_compiled_the_next_one_finds(tmp_path):
    """On the endpoint's volume: here what vLLM has found out of the model's class."""
    volume, cache = tmp_path / "volume", tmp_path / "cache"
    volume.mkdir()
    for known in (0, 1):
        done = run(
            **worker_environment(
                "bf16", RUNPOD_ENDPOINT_ID="e1", BASE_PATH=str(volume), CACHE_ROOT=str(cache)
            )
        )
        assert done.returncode == 0, done.stderr
        assert f"compile cache: restored {known} files from the volume" in done.stdout
        [found] = cache.rglob("*.json")
        assert found.name == "vllm-model_executor-models-llama-LlamaForCausalLM.json"
        shutil.rmtree(cache)  # the next worker is on another machine


def test_a_model_from_the_hub_and_a_job_that_fails(tmp_path):
    """The job comes from --test_input, as the SDK has it: code 1 and one line."""
    job = json.dumps({"input": {"prompt": "Hi", "temprature": 1}})
    with running_hub(public=Repository(MODELS / f"{NAME}-bf16")) as hub:
        environment = worker_environment(
            MODEL_NAME="org/public",
            BASE_PATH=str(tmp_path),
            HF_ENDPOINT=hub.url,
            HF_HUB_DISABLE_XET="1",
        )
        done = run("--test_input", job, **environment)
    assert done.returncode == 1
    assert "model org/public (unquantized) from the hub" in done.stdout
    assert done.stdout.splitlines()[-1] == (
        "The job failed: The engine has no field 'temprature' on /v1/completions: "
        "did you mean 'temperature'?"
    )


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "message"),
    [
        ((), {"MAX_CONCURRENCY": "many"}, 2, "MAX_CONCURRENCY='many' must be "),
        (("--test_input", "{"), {}, 2, "--test_input is not JSON: "),
        (("--test_input", "[]"), {}, 2, '--test_input must be a JSON object with an "input".'),
        ((), {"QUANTIZATION": "fp8"}, 2, "QUANTIZATION='fp8' contradicts the checkpoint: "),
        ((), {"MODEL_NAME": "/none"}, 3, "MODEL_NAME='/none' looks like a local folder, "),
    ],
    ids=["setting", "not json", "no input", "quantization", "model"],
)
def test_a_bad_start_ends_with_its_code_and_one_line(arguments, environ, code, message):
    """Before the engine is imported, and without a traceback."""
    done = run(*arguments, **{**worker_environment("awq"), **environ})
    assert (done.returncode, done.stdout) == (code, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(message)


def test_a_missing_test_input_is_said(tmp_path):
    """In a folder without the file."""
    done = run(cwd=tmp_path, **worker_environment("awq"))
    assert (done.returncode, done.stderr) == (
        2,
        "test_input.json cannot be read: No such file or directory.\n",
    )


@pytest.mark.parametrize("engine", PYTHON)
def test_a_flag_that_the_engine_refuses_ends_with_code_2(engine):
    """The engine's parser speaks before the weights are loaded."""
    done = run(**worker_environment("awq", engine, DTYPE="int3"))
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert said.startswith("DTYPE='int3': invalid choice: 'int3' (choose from 'auto', ")


@pytest.mark.parametrize(
    ("engine", "variable", "owner"),
    [("vllm", "SCHEDULE_POLICY", "SGLang"), ("sglang", "COMPILATION_CONFIG", "vLLM")],
)
def test_a_setting_that_only_the_other_engine_has_ends_with_code_2(engine, variable, owner):
    """It cannot be honoured, so nothing starts."""
    title = {"vllm": "vLLM", "sglang": "SGLang"}[engine]
    done = run(**worker_environment("bf16", engine, **{variable: "lpm"}))
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
    done = run(**worker_environment(VARIANT[engine], engine, MAX_MODEL_LEN="1000000"))
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"The engine refuses its settings: {REFUSALS[engine]}")


@pytest.mark.parametrize("engine", PYTHON)
def test_a_checkpoint_without_weights_ends_with_code_3(tmp_path, engine):
    """The configuration promises weights that are not there."""
    for file in (MODELS / f"{NAME}-bf16").glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    done = run(**worker_environment(engine=engine, MODEL_NAME=str(tmp_path)))
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        f"{tmp_path.name} has no weights (*.safetensors *.bin *.pt *.gguf)."
    )


def test_an_engine_that_does_not_start_ends_with_code_4():
    """Its core process refuses what its parser has let through; SGLang's parser judges it."""
    done = run(**worker_environment("bf16", LOAD_FORMAT="nosuch"))
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("The engine did not start: ")


@pytest.mark.parametrize("engine", PYTHON)
def test_sigterm_lets_jobs_finish_and_leaves_nothing_behind(engine):
    """Running jobs get their time, new ones are not taken, no process outlives the worker."""
    with (
        running_platform(ping_interval_seconds=1) as platform,
        running_worker(
            platform,
            worker_command(engine),
            worker_environment("bf16", engine),
            ready_within_seconds=START_SECONDS,
        ) as worker,
    ):
        chat = platform.wait(platform.submit({"messages": QUESTION, "temperature": 0}), 60)
        assert "Paris" in chat.output[0]["choices"][0]["message"]["content"]
        family = psutil.Process(worker.pid).children(recursive=True)
        assert len(family) >= 2
        tokens = {"vllm": 200, "sglang": 40}[engine]  # as many as it writes in the drain's time
        job_id = platform.submit({**STORY, "max_tokens": tokens})
        platform.wait_until(job_id, lambda job: job.chunks, 30)
        taken_id = platform.submit({**STORY, "max_tokens": 5})
        platform.wait_until(taken_id, lambda job: job.state is not JobState.IN_QUEUE, 30)
        worker.send_signal(signal.SIGTERM)
        late_id = platform.submit({**STORY, "max_tokens": 5})
        assert worker.wait(60) == 0
        job = platform.job(job_id)
        assert job.state is JobState.COMPLETED
        assert job.output[-1]["usage"]["completion_tokens"] == tokens
        assert platform.job(taken_id).state is JobState.COMPLETED
        # The poll that was open at the signal may have brought the late job: then it was served.
        late = platform.job(late_id)
        assert late.state in (JobState.IN_QUEUE, JobState.COMPLETED)
        assert [process for process in family if process.is_running()] == []


@pytest.mark.parametrize("engine", PYTHON)
def test_jobs_that_outlast_the_drain_fail_with_what_they_have(engine):
    """DRAIN_TIMEOUT is over: what was streamed stays, the job says why it ended."""
    with (
        running_platform(ping_interval_seconds=1) as platform,
        running_worker(
            platform,
            worker_command(engine),
            worker_environment("bf16", engine, DRAIN_TIMEOUT="2", REQUEST_TIMEOUT="8"),
            ready_within_seconds=START_SECONDS,
        ) as worker,
    ):
        story = {**STORY, "max_tokens": 1500}  # SGLang reserves room for what is asked for
        timed_out = platform.wait(platform.submit(story), 60)
        error = json.loads(timed_out.error)["error"]
        assert (error["code"], error["message"]) == (
            408,
            "The job took longer than REQUEST_TIMEOUT=8 seconds.",
        )
        assert len(timed_out.chunks) > 5
        job_id = platform.submit(story)
        platform.wait_until(job_id, lambda job: job.chunks, 30)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
        job = platform.job(job_id)
        error = json.loads(job.error)["error"]
        assert (job.state, error["code"], error["message"]) == (
            JobState.FAILED,
            503,
            "The worker was stopped before the answer was complete.",
        )
        assert len(job.chunks) > 1


SAID = {"The engine died; the worker is being replaced."}
CORES = {"vllm": "EngineCore", "sglang": "scheduler"}  # in the names of the processes


@pytest.mark.parametrize("engine", PYTHON)
def test_a_dead_engine_fails_its_jobs_and_ends_the_worker(engine):
    """Eight streams and two plain jobs run, and nobody waits; what was streamed stays."""
    with (
        running_platform(ping_interval_seconds=1) as platform,
        running_worker(
            platform,
            worker_command(engine),
            worker_environment(VARIANT[engine], engine),
            ready_within_seconds=START_SECONDS,
        ) as worker,
    ):
        story = {**STORY, "max_tokens": 1500}  # SGLang reserves room for what is asked for
        raw = {"openai_route": "/v1/completions", "openai_input": story}
        streamed = [platform.submit(job) for job in (story,) * 4 + (raw,) * 4]
        plain = [platform.submit({**story, "stream": False}) for _ in range(2)]
        for job_id in streamed:
            platform.wait_until(job_id, lambda job: len(job.chunks) > 2, 60)
        family = psutil.Process(worker.pid).children(recursive=True)
        [core] = [process for process in family if CORES[engine] in arguments(process)]
        killed_at = time.monotonic()
        core.send_signal(signal.SIGKILL)
        assert worker.wait(60) == 5
        assert time.monotonic() - killed_at < 10
        for job_id in streamed + plain:
            job = platform.job(job_id)
            assert job.state is JobState.FAILED
            error = json.loads(job.error)["error"]
            assert (error["code"], error["type"]) == (503, "ServiceUnavailableError")
            assert error["message"] in SAID
        assert all(len(platform.job(job_id).chunks) > 2 for job_id in streamed)
        assert [process for process in family if process.is_running()] == []


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
        deadline = time.monotonic() + START_SECONDS
        while not (family := process.children(recursive=True)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 128 + signal.SIGTERM
        assert [process for process in family if process.is_running()] == []
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
