"""A hub that asks to wait, and transfers that go silent."""

import subprocess
import sys

import pytest

from tests.support.environment import ROOT, clean_environment
from tests.support.hub import COMMIT, Fault, Repository, running_hub
from tests.support.model_folders import model_folder
from tests.support.resolved_model import run_resolve

SILENCE_SECONDS = 10


@pytest.fixture
def folder(tmp_path):
    return model_folder(tmp_path / "repository", model__safetensors="weights" * 20_000)


@pytest.fixture
def volume(tmp_path):
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


@pytest.mark.parametrize(
    ("name", "method", "waits"),
    [
        ("/api/models/org/public/revision/main", "GET", 5),
        (f"/api/models/org/public/tree/{COMMIT}", "GET", 5),
        ("/config.json", "HEAD", 2),  # huggingface-hub sends two at once
        ("/config.json", "GET", 5),
        ("/cdn/org/public/model.safetensors", "GET", 5),
    ],
    ids=["list", "tree", "head", "small file", "large file"],
)
def test_the_wait_that_the_hub_asks_for_is_kept(volume, folder, name, method, waits):
    with running_hub(public=Repository(folder)) as hub:
        headers = {"RateLimit": '"api";r=0;t=0'}
        hub.faults.append(Fault(name, times=5, method=method, status=429, headers=headers))
        done = run_resolve(volume, hub.url, MODEL_NAME="org/public")
    assert done.stdout.startswith("org/public /"), done.stdout
    line = "the hub answered 429, too many requests, trying again in 1 s\n"
    assert done.stderr == line * waits


def test_a_hub_that_asks_to_wait_for_an_hour_is_not_waited_for(volume, folder):
    with running_hub(public=Repository(folder)) as hub:
        headers = {"Retry-After": "3600"}
        hub.faults.append(Fault("/config.json", times=9, status=429, headers=headers))
        done = run_resolve(volume, hub.url, MODEL_NAME="org/public")
    assert done.stdout == (
        "ModelUnavailable org/public: the hub answered 429, too many requests and asks to wait "
        "3601 s: try again later, or with HF_TOKEN, which has a higher limit.\n"
    )


def download(folder, hub_url, **environ):
    """Download org/public with a short limit of silence; return the output."""
    code = (
        "import logging, os, sys\n"
        "from pathlib import Path\n"
        "from handler.errors import ModelUnavailable\n"
        "from handler.model import hub\n"
        "from handler.model.reference import HubReference\n"
        "logging.basicConfig(format='%(message)s')\n"
        "reference = HubReference('org/public')\n"
        "listing = hub.list_repository(reference)\n"
        "try:\n"
        "    path = hub.download_files(\n"
        "        reference, listing.commit, listing.files, cache=Path(sys.argv[1]),\n"
        f"        retry_waits_seconds=(0, 0, 0), max_silence_seconds={SILENCE_SECONDS},\n"
        "    )\n"
        "    print(len(Path(path, 'model.safetensors').read_bytes()))\n"
        "except ModelUnavailable as error:\n"
        "    print(error)\n"
        "sys.stdout.flush()\n"
        "sys.stderr.flush()\n"
        "os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=clean_environment(HF_ENDPOINT=hub_url, HF_HUB_DOWNLOAD_TIMEOUT="300", **environ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_a_transfer_by_xet_that_goes_silent_is_tried_by_plain_http(tmp_path, folder):
    with running_hub(public=Repository(folder, xet=True)) as hub:
        out, log = download(tmp_path / "cache", hub.url)
        assert any(path.startswith("/xet/") for _, path, _ in hub.asked)
    assert out == str((folder / "model.safetensors").stat().st_size)
    assert "org/public: the transfer has stalled, plain HTTP is next\n" in log
    assert list((tmp_path / "cache").rglob("*.incomplete")) == []


def test_a_transfer_by_http_that_goes_silent_twice_is_an_error(tmp_path, folder):
    with running_hub(public=Repository(folder)) as hub:
        hub.faults.append(Fault("model.safetensors", 9, after_bytes=1000, pause_seconds=300))
        out, _ = download(tmp_path / "cache", hub.url)
    assert out == (
        f"org/public: the hub at {hub.url} accepts the download and sends no data for "
        f"{SILENCE_SECONDS} s."
    )
    assert list((tmp_path / "cache").rglob("*.incomplete")) == []


def test_a_list_of_files_that_never_comes_is_a_silent_transfer_too(tmp_path, folder):
    with running_hub(public=Repository(folder)) as hub:
        tree = f"/api/models/org/public/tree/{COMMIT}"
        hub.faults.append(Fault(tree, silent=True))
        out, _ = download(tmp_path / "cache", hub.url)
    assert out == str((folder / "model.safetensors").stat().st_size)


@pytest.mark.parametrize(
    ("fault", "timeouts_seconds", "requests", "reason"),
    [
        ({"silent": True}, (0.2, 0.4), 2, "accepted the connection and sent no data"),
        ({"status": 503}, (60, 60), 4, "the hub answered 503: try again later"),
    ],
    ids=["silent", "503"],
)
def test_a_hub_that_does_not_answer_is_asked_twice_and_one_that_fails_four_times(
    folder, fault, timeouts_seconds, requests, reason
):
    """For a list of files, with shorter waits."""
    code = (
        "from handler.errors import ModelUnavailable\n"
        "from handler.model import hub\n"
        "from handler.model.reference import HubReference\n"
        f"hub.LIST_TIMEOUTS_SECONDS = {timeouts_seconds}\n"
        "try:\n"
        "    hub.list_repository(HubReference('org/public'), (0, 0, 0))\n"
        "except ModelUnavailable as error:\n"
        "    print(error.lasting, error)\n"
    )
    with running_hub(public=Repository(folder)) as hub:
        hub.faults.append(Fault("", times=99, **fault))
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=clean_environment(HF_ENDPOINT=hub.url),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        path = "/api/models/org/public/revision/main"
        assert [path for _, path, _ in hub.asked] == [path] * requests
    assert done.stdout.startswith("False org/public: ")
    assert reason in done.stdout
