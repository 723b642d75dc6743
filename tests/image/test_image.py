"""What a user of the image sees: it answers, serves, stops, and tells no secret."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from runpod_local import JobState, running_platform, running_worker
from tests.image.conftest import REPOSITORY, SHARD_BYTES, TOKEN
from tests.support.conditions import wait_until
from tests.support.environment import ROOT
from tests.support.http_worker import KEY, free_port
from tests.support.hub import COMMIT

START_SECONDS = 600
CODE_BYTES = 3_000_000  # sources, bytecode, manifests
RUN = ("run", "--rm", "--env", "OMP_NUM_THREADS=1", "--env", "VLLM_LOGGING_LEVEL=ERROR")


def test_docker_run_answers_test_input_json(docker, image):
    """Without arguments, and without a network: the weights are in the image."""
    done = docker(*RUN, "--network=none", image.tag)
    first, *_ = done.stdout.splitlines()
    assert first.endswith(f"model {REPOSITORY} (awq) from the image, commit {COMMIT[:12]}")
    assert "The capital of France is Paris" in done.stdout
    assert "usage                37 prompt + 10 completion tokens" in done.stdout


def test_it_serves_the_platform_until_docker_stop(docker, image, tmp_path):
    """A mounted volume hides nothing, tini hands SIGTERM on, and the exit code is 0.

    It needs no right that a container can do without.
    """
    restricted = ["--user=1000:1000", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL"]
    with running_platform(ping_interval_seconds=1) as platform:
        names = platform.worker_environment("worker-1")
        passed = [word for name in names for word in ("--env", name)]
        mounted = ["--volume", f"{tmp_path}:/runpod-volume", "--name", "served"]
        command = ["docker", *RUN, "--network=host", *restricted, *mounted, *passed, image.tag]
        with running_worker(
            platform, command, docker.environment, ready_within_seconds=START_SECONDS
        ) as container:
            chat = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
            job = platform.wait(platform.submit({**chat, "temperature": 0, "max_tokens": 20}), 120)
            assert (job.state, job.output[0]["model"]) == (JobState.COMPLETED, REPOSITORY)
            assert "Paris" in job.output[0]["choices"][0]["message"]["content"]
            asked = {**chat, "max_tokens": 200, "ignore_eos": True, "stream": True}
            stream = {"openai_route": "/v1/chat/completions", "openai_input": asked}
            streamed = platform.wait(platform.submit(stream), 120)
            assert len(streamed.chunks) > 1
            assert "".join(streamed.output).endswith("data: [DONE]\n\n")
            processes = docker("top", "served", "-o", "pid,args").stdout.splitlines()
            assert processes[1].endswith(" /usr/bin/tini -- python3 -m handler")
            docker("stop", "--time=60", "served")
            assert container.wait(60) == 0


def test_it_serves_http_until_docker_stop(docker, image):
    """The same image with a port: it pings from the start, and Docker's health check asks it."""
    port = free_port()
    passed = ["--env", f"PORT={port}", "--env", f"API_KEY={KEY}", "--name", "http"]
    kept = [word for word in RUN if word != "--rm"]
    docker(*kept, "--detach", "--network=host", "--health-interval=2s", *passed, image.tag)
    try:
        root, seen = f"http://127.0.0.1:{port}", []

        def is_ready():
            with contextlib.suppress(httpx.TransportError):
                seen.append(httpx.get(f"{root}/ping", timeout=60).status_code)
            return seen[-1:] == [200]

        try:
            wait_until(is_ready, START_SECONDS)
        except TimeoutError as error:
            error.add_note(docker("logs", "http").stdout)
            raise
        assert set(seen) == {204, 200}
        chat = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
        answer = httpx.post(
            f"{root}/v1/chat/completions",
            json=chat | {"temperature": 0},
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=120,
        )
        assert "Paris" in answer.json()["choices"][0]["message"]["content"]

        def state():
            return json.loads(docker("inspect", "--format={{json .State}}", "http").stdout)

        wait_until(lambda: state()["Health"]["Status"] != "starting", START_SECONDS)
        assert state()["Health"]["Status"] == "healthy"
        docker("stop", "--time=60", "http")
        ended = state()
        assert (ended["Status"], ended["ExitCode"]) == ("exited", 0)
    finally:
        docker("rm", "--force", "http", check=False)


def test_the_token_is_nowhere_in_the_image(docker, image):
    """Not in a layer, the history, the environment, the labels or the build's output."""
    # The search finds what is there: the repository's name, from the manifest.
    needles = [TOKEN.encode(), f'"repository": "{REPOSITORY}"'.encode()]
    with subprocess.Popen(
        ["docker", "save", image.tag], env=docker.environment, stdout=subprocess.PIPE
    ) as saved:
        assert search(saved.stdout, needles) == [False, True]
    assert saved.returncode == 0
    history = docker("history", "--no-trunc", image.tag).stdout
    assert REPOSITORY in history
    for text in (history, json.dumps(image.inspected), image.log):
        assert TOKEN not in text


def search(stream, needles: list[bytes], piece_bytes=1 << 24) -> list[bool]:
    """Say of each needle whether it is in the stream."""
    found, tail = [False] * len(needles), b""
    overlap = max(map(len, needles)) - 1
    while piece := stream.read(piece_bytes):
        text = tail + piece
        found = [was or needle in text for was, needle in zip(found, needles, strict=True)]
        tail = text[-overlap:]
    return found


def test_the_labels_and_the_command(image):
    """What a registry and an operator read."""
    config = image.inspected["Config"]
    assert config["Entrypoint"] == ["/usr/bin/tini", "--", "python3", "-m", "handler"]
    assert config["Cmd"] is None
    assert config["Healthcheck"]["Test"] == ["CMD", "python3", "-m", "handler.healthcheck"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "runpod-llm-worker"
    assert labels["runpod-llm-worker.engine"] == "cpu"
    assert labels["runpod-llm-worker.model.name"] == REPOSITORY
    assert labels["runpod-llm-worker.model.revision"] == "main"


def layers(docker, tag) -> list[tuple[str, int]]:
    """Return digest and bytes of each layer, the lowest first."""
    digests = json.loads(docker("image", "inspect", "--format={{json .RootFS.Layers}}", tag).stdout)
    lines = docker("history", "--human=false", "--format={{.Size}}\t{{.CreatedBy}}", tag).stdout
    sizes = [
        int(size)
        for size, step in (line.split("\t") for line in reversed(lines.splitlines()))
        if int(size) or step.startswith(("COPY", "RUN", "WORKDIR"))
    ]
    assert len(sizes) == len(digests)
    return list(zip(digests, sizes, strict=True))


def test_a_change_of_the_code_ships_kilobytes(docker, build, image, tmp_path):
    """Every layer but those of the code is the same, the model's above all."""
    context = tmp_path / "changed"
    ignored = shutil.ignore_patterns(".git", ".venv*", "models", ".docker", "__pycache__", "tests")
    shutil.copytree(ROOT, context, ignore=ignored)
    with (context / "handler/serve/worker.py").open("a") as file:
        file.write("# changed\n")
    build("changed", "--build-arg", f"MODEL_NAME={REPOSITORY}", context=context)
    before = {digest for digest, _ in layers(docker, image.tag)}
    shipped = [size for digest, size in layers(docker, "changed") if digest not in before]
    assert 0 < sum(shipped) < CODE_BYTES


def test_fetching_again_ships_the_manifest_and_not_the_weights(docker, build, image):
    """The same commit makes the same layer; a build on another machine proves it."""
    options = ["--build-arg", f"MODEL_NAME={REPOSITORY}", "--no-cache-filter=models"]
    fetches = len(build.hub.asked)
    build("again", *options)
    assert len(build.hub.asked) > fetches
    before = {digest for digest, _ in layers(docker, image.tag)}
    shipped = [size for digest, size in layers(docker, "again") if digest not in before]
    assert 0 < sum(shipped) < CODE_BYTES


def test_the_shards_of_a_model_are_layers_of_their_own(docker, build, image):
    """Three shards of four megabytes, beside each other in one folder in the end."""
    build("sharded", "--build-arg", "MODEL_NAME=org/sharded")
    before = {digest for digest, _ in layers(docker, image.tag)}
    new = [size for digest, size in layers(docker, "sharded") if digest not in before]
    assert [size for size in new if size >= SHARD_BYTES] == [SHARD_BYTES] * 3
    listed = docker("run", "--rm", "--entrypoint=ls", "sharded", "/opt/models/model").stdout.split()
    assert listed == [
        "config.json",
        "manifest.json",
        *(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)),
        "model.safetensors.index.json",
    ]


def test_without_a_model_the_image_is_generic(docker, build, image):
    """It says what it needs, and has the volume's path that it was built with."""
    build("generic", "--build-arg", "BASE_PATH=/data")
    done = docker(*RUN, "--network=none", "generic", check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "MODEL_NAME is not set: give a hub repository such as Qwen/Qwen2.5-7B-Instruct-AWQ or a "
        "local folder.\n",
    )
    [inspected] = json.loads(docker("image", "inspect", "generic").stdout)
    assert "BASE_PATH=/data" in inspected["Config"]["Env"]


@pytest.mark.parametrize(
    ("options", "token", "message"),
    [
        (
            [f"MODEL_NAME={REPOSITORY}", "ALLOW_PATTERNS=x"],
            False,
            f"fetch: {REPOSITORY}: it is gated: accept its licence on the hub and set HF_TOKEN "
            "(docker build takes it as a secret: --secret id=HF_TOKEN,env=HF_TOKEN; a --build-arg "
            "is not read).",
        ),
        (
            ["MODEL_NAME=org/unquantized"],
            True,
            "fetch: org/unquantized is not quantized: choose a quantized repository",
        ),
        (
            [f"MODEL_NAME={REPOSITORY}", "QUANTIZATION=fp8"],
            True,
            f"fetch: QUANTIZATION=fp8 contradicts the checkpoint: {REPOSITORY} is quantized as "
            "'awq'.",
        ),
    ],
    ids=["gated", "unquantized", "contradiction"],
)
def test_a_build_that_cannot_succeed_says_why(build, image, options, token, message):
    """In one line, before any weights are fetched."""
    arguments = [word for option in options for word in ("--build-arg", option)]
    asked = len(build.hub.asked)
    done = build("refused", *arguments, token=token, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert not any(path.endswith(".safetensors") for _, path, _ in build.hub.asked[asked:])


def test_warmed_caches_are_baked(docker, build, image, tmp_path):
    """What a folder has, below /opt/caches; without one the folder is empty."""
    (tmp_path / "key.tar").write_text("archive")
    build("warmed", f"--build-context=caches={tmp_path}")
    listed = ("run", "--rm", "--network=none", "--entrypoint=ls")
    assert docker(*listed, "warmed", "/opt/caches").stdout == "key.tar\n"
    assert docker(*listed, image.tag, "/opt/caches").stdout == ""


def test_draft_tokenizer_and_adapters_are_baked_beside_the_model(docker, build, image):
    """Each with a manifest; the draft need not be quantized, the tokenizer has no weights."""
    options = [f"MODEL_NAME={REPOSITORY}", "DRAFT_MODEL_NAME=org/unquantized"]
    options += [f"TOKENIZER_NAME={REPOSITORY}", "LORA_MODULES=org/sql=org/adapter"]
    build("drafted", *[word for option in options for word in ("--build-arg", option)])
    command = ["run", "--rm", "--network=none", "--entrypoint=find", "drafted", "/opt/models"]
    files = docker(*command, "-type", "f", "-printf", "%P\n").stdout.split()
    by_kind = {kind: {f for f in files if f.startswith(kind)} for kind in ("draft", "tokenizer")}
    assert "draft/model.safetensors" in by_kind["draft"]
    assert "draft/manifest.json" in by_kind["draft"]
    assert {"tokenizer/tokenizer.json", "tokenizer/manifest.json"} <= by_kind["tokenizer"]
    assert not any(name.endswith(".safetensors") for name in by_kind["tokenizer"])
    assert {name for name in files if name.startswith("lora")} == {
        "lora/org--sql/adapter_config.json",
        "lora/org--sql/adapter_model.safetensors",
        "lora/org--sql/manifest.json",
    }


# Stands in for the engines' official images, which cannot be pulled here: as in those, Python is
# the system's own, and has packages that the worker needs in a version of the image's choice.
STAND_IN = """
FROM {base}
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip python3-packaging
RUN pip install --break-system-packages tomli==2.4.1
ENTRYPOINT ["the engine's own server"]
"""


@pytest.mark.parametrize("engine", ["vllm-official", "sglang-official"])
def test_the_worker_goes_on_an_image_with_a_system_python(docker, build, image, tmp_path, engine):
    """Its packages stay as they are, and its entry point does not."""
    base = docker.build_arguments[1].partition("=")[2] if docker.build_arguments else "debian:12"
    (tmp_path / "Dockerfile").write_text(STAND_IN.format(base=base))
    docker("build", "--network=host", "--tag=stand-in", str(tmp_path))
    name = engine.removesuffix("-official").upper()
    options = ["--build-arg", f"{name}_IMAGE=stand-in"]
    build("on-stand-in", *options, engine=engine)
    code = (
        "import tomli, runpod, handler.model.resolve, importlib.metadata as m; "
        "print(m.version('tomli'))"
    )
    run = ("run", "--rm", "--network=none")
    done = docker(*run, "--entrypoint=python3", "on-stand-in", "-c", code)
    assert done.stdout.splitlines()[-1] == "2.4.1"
    done = docker(*run, "on-stand-in", check=False)
    assert (done.returncode, done.stderr[:24]) == (2, "MODEL_NAME is not set: g")


def test_make_image_hands_everything_on(docker, build, image):
    """The settings as build arguments, the token as a secret."""
    given = {"ENGINE": "cpu", "TAG": "made", "MODEL_NAME": REPOSITORY}
    given["HF_ENDPOINT"] = build.hub.url
    if docker.build_arguments:
        given["DEBIAN_IMAGE"] = docker.build_arguments[1].partition("=")[2]
    flags = "--network=host " + " ".join(build.wheels())
    done = subprocess.run(
        ["make", "image", f"DOCKER_BUILD_FLAGS={flags}", *map("=".join, given.items())],
        cwd=ROOT,
        env=docker.environment | {"HF_TOKEN": TOKEN},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert layers(docker, "made")[:-5] == layers(docker, image.tag)[:-5]


def test_the_compose_file_gives_the_worker_every_gpu(docker):
    """Read by docker compose itself; a GPU is what cannot be had here."""
    command = ("compose", "--file", str(ROOT / "compose.yaml"), "config", "--format=json")
    worker = json.loads(docker(*command).stdout)["services"]["worker"]
    assert worker["image"] == "llm-worker:vllm"
    assert worker["build"]["args"] == {"ENGINE": "vllm"}
    [devices] = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (devices["capabilities"], devices["count"]) == (["gpu"], -1)
    assert worker["shm_size"] == str(8 << 30)


def test_the_compose_file_of_the_monitoring_is_read(docker):
    """It wants a key and a model, and hands the key on to Prometheus."""
    given = {"API_KEY": "a-key", "MODEL_NAME": "org/name"}

    def read(environment):
        file = str(ROOT / "monitoring/compose.yaml")
        return subprocess.run(
            ["docker", "compose", "--file", file, "config", "--format=json"],
            env={name: docker.environment[name] for name in docker.environment.keys() - given}
            | environment,
            capture_output=True,
            text=True,
        )

    # Each by itself: compose names one that is missing, in no order.
    for missing, hint in (("API_KEY", "is what callers"), ("MODEL_NAME", "is the model to serve")):
        without = read({name: value for name, value in given.items() if name != missing})
        assert without.returncode != 0
        assert f"variable {missing} is missing a value: {hint}" in without.stderr
    done = json.loads(read(given).stdout)
    assert done["services"].keys() == {"worker", "prometheus", "pushgateway", "grafana"}
    assert done["services"]["worker"]["environment"]["MODEL_NAME"] == "org/name"
    assert done["secrets"]["api_key"]["environment"] == "API_KEY"


def test_hadolint_has_nothing_to_say():
    """The recipe follows the usual rules, or says why it does not."""
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
