"""A Docker engine for the tests: the one that runs, or one unpacked and started for them.

Debian's packages are unpacked below `.docker/`, not installed; only runc, iptables and mmdebstrap
are. As no image can be pulled where the tests have to run without a registry, the Debian base is
made with mmdebstrap, which is how the official one is made too.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import debian

HOME = Path(__file__).parents[2] / ".docker"
NEEDED = {name: name for name in ("runc", "iptables", "mmdebstrap")}
PACKAGES = ("docker.io", "docker-cli", "docker-buildx", "docker-compose", "containerd")
RELEASE = "trixie"  # bookworm's own engine is too old for the Dockerfile
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
BASE = "llm-worker-test-slim"
BASE_RELEASE = "bookworm"
# As in the official slim image, and for what is installed on it as well.
SLIM = [f"path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")]
SLIM += ["path-exclude=/usr/share/lintian/*", "path-include=/usr/share/doc/*/copyright"]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CONTAINERD_STORE = "io.containerd.snapshotter.v1"
START_SECONDS = 600


@dataclass
class Docker:
    """The docker command on a running engine.

    Attributes:
        environment: what the command needs to find the engine.
        build_arguments: for the Dockerfile, so that it finds its base here.
    """

    environment: dict[str, str]
    build_arguments: list[str] = field(default_factory=list)

    def __call__(
        self, *arguments: str, timeout_seconds: float = 600, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run one docker command; unless `check` is off, a failure is an AssertionError."""
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )
        assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done


@contextmanager
def running_docker() -> Iterator[Docker]:
    """Yield the engine that runs already, or one of our own, which is stopped in the end."""
    if shutil.which("docker") and _answers(dict(os.environ)):
        yield Docker(dict(os.environ))
        return
    sources, environment = _own_engine(HOME)
    with _daemon(environment, HOME, "--storage-driver=overlay2"):
        yield _with_base(environment, sources)


@contextmanager
def running_docker_with_containerd_store() -> Iterator[Docker]:
    """Yield an engine whose images are containerd's, as a new installation of Docker has it.

    Without it, an engine's own builder writes no layers with zstd. Its images are removed.
    """
    if shutil.which("docker") and _answers(dict(os.environ)):
        docker = Docker(dict(os.environ))
        if CONTAINERD_STORE not in docker("info", "--format={{.DriverStatus}}").stdout:
            pytest.skip("the Docker engine that runs here has another image store")
        yield docker
        return
    home = HOME / "containerd-store"
    sources, environment = _own_engine(home)
    home.mkdir(exist_ok=True)
    (home / "daemon.json").write_text('{"features": {"containerd-snapshotter": true}}')
    try:
        with _daemon(environment, home, f"--config-file={home}/daemon.json"):
            yield _with_base(environment, sources)
    finally:
        shutil.rmtree(home / "data", ignore_errors=True)


def _own_engine(home: Path) -> tuple[Path, dict[str, str]]:
    """Return apt's sources, and the environment of a client of the engine that `home` is for."""
    sources = [path for path in SOURCES if path.is_file()]
    if os.geteuid() != 0 or not shutil.which("apt-get") or not sources:
        pytest.skip("no Docker engine runs here, and to start one takes root and Debian's apt")
    return sources[0], _environment(_unpacked(sources[0]), home)


def _with_base(environment: dict[str, str], sources: Path) -> Docker:
    docker = Docker(environment, ["--build-arg", f"DEBIAN_IMAGE={BASE}"])
    if docker("image", "inspect", BASE, check=False).returncode:
        _make_base(docker, sources)
    return docker


def _answers(environment: dict[str, str]) -> bool:
    command = ["docker", "info", "--format", "{{.ServerVersion}}"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and done.stdout.strip() != ""


def _unpacked(sources: Path) -> Path:
    """The folder with the engine's programs, made now unless it is there."""
    debian.install(NEEDED)
    root = HOME / "root"
    if (root / "usr/sbin/dockerd").is_file():
        return root
    packages = HOME / "packages"
    for folder in (packages, HOME / "apt/lists/partial", HOME / "apt/cache/archives/partial"):
        folder.mkdir(parents=True, exist_ok=True)
    newer = HOME / "apt" / f"{RELEASE}{sources.suffix}"
    newer.write_text(sources.read_text().replace(BASE_RELEASE, RELEASE))
    apt = [
        "apt-get",
        "-o",
        "Dir::Etc::SourceParts=/dev/null",
        "-o",
        f"Dir::Etc::SourceList={newer}",
    ]
    apt += ["-o", f"Dir::State::Lists={HOME}/apt/lists", "-o", f"Dir::Cache={HOME}/apt/cache"]
    _run(*apt, "update", "-qq")
    _run(*apt, "download", "-qq", *PACKAGES, cwd=packages)
    for package in packages.glob("*.deb"):
        _run("dpkg-deb", "-x", str(package), str(root))
    return root


def _environment(root: Path, home: Path) -> dict[str, str]:
    plugins = HOME / "config/cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    for plugin in (root / "usr/libexec/docker/cli-plugins").iterdir():
        (plugins / plugin.name).unlink(missing_ok=True)
        (plugins / plugin.name).symlink_to(plugin)
    return os.environ | {
        "PATH": f"{root}/usr/bin:{root}/usr/sbin:{os.environ['PATH']}",
        "DOCKER_HOST": f"unix://{home}/run/socket",
        "DOCKER_CONFIG": str(HOME / "config"),
    }


@contextmanager
def _daemon(environment: dict[str, str], home: Path, *options: str) -> Iterator[None]:
    """dockerd without networks of its own: every build and container uses the host's."""
    run = home / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    folders = [f"--data-root={home}/data", f"--exec-root={run}/exec", f"--pidfile={run}/pid"]
    without_networks = ["--iptables=false", "--ip6tables=false", "--bridge=none"]
    command = ["dockerd", *folders, *without_networks, *options]
    with (home / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [*command, "-H", environment["DOCKER_HOST"]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(environment):
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"dockerd did not start: {(home / 'log').read_text()[-2000:]}")
            time.sleep(0.5)
        yield
    finally:
        daemon.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(30)
        daemon.kill()
        daemon.wait()
        subprocess.run(["umount", f"{run}/exec/netns/default"], capture_output=True)


def _make_base(docker: Docker, sources: Path) -> None:
    """Debian as the Dockerfile's base, with this machine's certificates for its builds."""
    tar, pip_conf = HOME / f"{BASE}.tar", HOME / "pip.conf"
    if not tar.is_file():
        pip_conf.write_text(f"[global]\ncert = {CERTIFICATES}\n")
        made = HOME / "made.tar"
        _run(
            "mmdebstrap",
            "--variant=minbase",
            "--include=ca-certificates",
            *(f"--dpkgopt={option}" for option in SLIM),
            f"--customize-hook=upload {CERTIFICATES} {CERTIFICATES}",
            f"--customize-hook=upload {pip_conf} /etc/pip.conf",
            BASE_RELEASE,
            str(made),
            str(sources),
        )
        made.rename(tar)
    docker("import", "--change", f"ENV SSL_CERT_FILE={CERTIFICATES}", str(tar), BASE)


def _run(*command: str, cwd: Path | None = None) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
