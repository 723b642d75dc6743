"""One Docker engine, one small hub and one image for all tests of this folder."""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.image.docker_engine import Docker, running_docker
from tests.support.checkpoints import lora
from tests.support.environment import MODELS, NAME, ROOT
from tests.support.hub import Hub, Repository, running_hub

TOKEN = "hf_" + "oNlyForThisBuild" * 2
REPOSITORY = "org/smollm2"
SHARD_BYTES = 4_000_000


@dataclass
class Builder:
    """`docker build` of the project with the hub of the tests."""

    docker: Docker
    hub: Hub
    secret: Path

    def wheels(self) -> list[str]:
        """Hand on the folder of wheels that pip is set up with here, if it is."""
        folder = os.environ.get("PIP_FIND_LINKS")
        return [f"--build-context=wheels={folder}"] if folder else []

    def __call__(
        self,
        tag: str,
        *options: str,
        engine: str = "cpu",
        context: Path = ROOT,
        token: bool = True,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Build an image; `options` are further ones of `docker build`."""
        arguments = ["build", "--network=host", "--progress=plain", f"--tag={tag}"]
        arguments += [
            "--build-arg",
            f"ENGINE={engine}",
            "--build-arg",
            f"HF_ENDPOINT={self.hub.url}",
        ]
        arguments += self.wheels()
        if token:
            arguments += ["--secret", f"id=HF_TOKEN,src={self.secret}"]
        arguments += self.docker.build_arguments
        return self.docker(*arguments, *options, str(context), timeout_seconds=1200, check=check)


@dataclass
class Image:
    """A built image: its tag, what the build printed, and what `docker inspect` says."""

    tag: str
    log: str
    inspected: dict
    seconds: float


@pytest.fixture(scope="session")
def docker():
    with running_docker() as running:
        yield running


@pytest.fixture(scope="session")
def build(docker, hub, tmp_path_factory):
    """The builder, with the secret that the hub asks for."""
    return Builder(docker, hub, secret_file(tmp_path_factory))


def secret_file(tmp_path_factory) -> Path:
    secret = tmp_path_factory.mktemp("secret") / "token"
    secret.write_text(TOKEN)
    return secret


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """A hub with the AWQ model, which is gated, and the bf16 one, which is not."""
    gated = Repository(MODELS / f"{NAME}-awq", gated=True)
    public = Repository(MODELS / f"{NAME}-bf16")
    sharded = Repository(shards(tmp_path_factory.mktemp("sharded")))
    adapter = Repository(lora(tmp_path_factory.mktemp("adapter")))
    repositories = {"smollm2": gated, "unquantized": public, "sharded": sharded}
    with running_hub(TOKEN, adapter=adapter, **repositories) as running:
        yield running


def shards(folder: Path) -> Path:
    """Something with the files of a checkpoint in three shards; no engine could load it."""
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    for name in names:
        (folder / name).write_bytes(os.urandom(SHARD_BYTES))
    weight_map = {name: name for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture(scope="session")
def image(docker, build):
    """The CPU image with the AWQ demo model in it."""
    started = time.monotonic()
    done = build("llm-worker", "--build-arg", f"MODEL_NAME={REPOSITORY}")
    seconds = time.monotonic() - started
    [inspected] = json.loads(docker("image", "inspect", "llm-worker").stdout)
    return Image("llm-worker", done.stdout + done.stderr, inspected, seconds)
