"""Models from a local hub, with the real huggingface-hub client."""

import contextlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.conditions import wait_until
from tests.support.environment import ROOT, START_SECONDS, clean_environment
from tests.support.hub import COMMIT, TOKEN, Fault, Repository, running_hub
from tests.support.model_folders import INDEX, cached_snapshot, model_folder
from tests.support.resolved_model import resolve, run_resolve

NO_HUB = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    model_folder(folder, {"quant_method": "awq"}, model__safetensors="weights", model__bin="pickle")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "original").mkdir()
    (folder / "original" / "weights.safetensors").write_text("again")
    with running_hub(
        public=Repository(folder),
        gated=Repository(folder, gated=True),
        private=Repository(folder, private=True),
    ) as server:
        yield server


def test_a_model_from_the_hub_is_kept_on_the_volume(tmp_path, hub):
    name, _, path = resolve(tmp_path, hub.url, MODEL_NAME="org/public").partition(" ")
    assert name == "org/public"
    cached = tmp_path / "huggingface-cache/hub/models--org--public"
    assert Path(path) == cached / "snapshots" / COMMIT
    assert sorted(file.name for file in Path(path).rglob("*") if file.is_file()) == [
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
    ]
    requests = len(hub.asked)
    assert resolve(tmp_path, hub.url, MODEL_NAME="org/public") == f"{name} {path}"
    assert len(hub.asked) == requests  # a second worker finds it on the volume


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_during_a_download_ends_the_worker_without_partial_files(tmp_path, number):
    folder = model_folder(tmp_path / "repository", model__safetensors="weights" * 3_000_000)
    volume = tmp_path / "volume"
    volume.mkdir()
    with running_hub(public=Repository(folder)) as hub:
        hub.faults.append(Fault("model.safetensors", after_bytes=15_000_000, pause_seconds=300))
        environ = {"MODEL_NAME": "org/public", "BASE_PATH": str(volume), "HF_ENDPOINT": hub.url}
        worker = subprocess.Popen(
            [sys.executable, "-m", "handler"],
            cwd=ROOT,
            env=clean_environment(**environ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def arrived_bytes():
            with contextlib.suppress(FileNotFoundError):  # the client's own folders come and go
                return sum(path.stat().st_size for path in volume.rglob("*.incomplete"))
            return 0

        # One chunk has arrived, and the connection hangs.
        wait_until(lambda: arrived_bytes() >= 10_000_000, START_SECONDS)
        worker.send_signal(number)
        assert worker.wait(60) == 128 + number
    assert list(volume.rglob("*.incomplete")) == []


def test_a_broken_connection_is_resumed_without_a_signed_url_in_the_log(tmp_path):
    folder = model_folder(tmp_path / "repository", model__safetensors="weights" * 3_000_000)
    with running_hub(public=Repository(folder)) as hub:
        hub.faults.append(Fault("model.safetensors", after_bytes=15_000_000))
        done = run_resolve(tmp_path, hub.url, MODEL_NAME="org/public")
        assert hub.ranges("model.safetensors")[-1].startswith("bytes=")
    path = Path(done.stdout.strip().partition(" ")[2]) / "model.safetensors"
    assert path.read_bytes() == (folder / "model.safetensors").read_bytes()
    assert done.stderr == ""


def test_the_partial_files_of_a_killed_worker_are_removed_after_hours(tmp_path, hub):
    blobs = tmp_path / "huggingface-cache/hub/models--org--public/blobs"
    blobs.mkdir(parents=True)
    for name in ("old", "new"):
        (blobs / f"{name}.0.incomplete").write_text("half")
    os.utime(blobs / "old.0.incomplete", (0, 0))
    resolve(tmp_path, hub.url, MODEL_NAME="org/public")
    assert [path.name for path in blobs.glob("*.incomplete")] == ["new.0.incomplete"]


def test_without_a_writable_volume_a_model_is_kept_in_the_container(tmp_path, hub):
    environ = {"BASE_PATH": "/proc", "HF_HUB_CACHE": str(tmp_path / "own")}
    found = resolve(tmp_path, hub.url, MODEL_NAME="org/public", **environ)
    assert found == f"org/public {tmp_path}/own/models--org--public/snapshots/{COMMIT}"
    requests = len(hub.asked)
    assert resolve(tmp_path, hub.url, MODEL_NAME="org/public", **environ) == found
    assert len(hub.asked) == requests  # a restart in the same container finds it


def test_a_tokenizer_from_the_hub_comes_without_weights(tmp_path, hub):
    folder = model_folder(tmp_path / "m")
    environ = {"MODEL_NAME": str(folder), "TOKENIZER_NAME": "org/public"}
    assert resolve(tmp_path, hub.url, **environ) == f"m {folder}"
    snapshot = tmp_path / "huggingface-cache/hub/models--org--public/snapshots" / COMMIT
    assert sorted(file.name for file in snapshot.iterdir()) == [
        "config.json",
        "tokenizer_config.json",
    ]


def test_two_workers_can_download_to_one_volume_at_once(tmp_path):
    folder = model_folder(tmp_path / "repository", model__safetensors="weights" * 3_000_000)
    with running_hub(public=Repository(folder)) as hub, ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda _: resolve(tmp_path, hub.url, MODEL_NAME="org/public"), range(2))
        [path] = {answer.partition(" ")[2] for answer in answers}
    for file in folder.iterdir():
        assert (Path(path) / file.name).read_bytes() == file.read_bytes()
    assert list(Path(path).parents[1].rglob("*.incomplete")) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"model__safetensors__index__json": INDEX, "model-1__safetensors": "w"},
            "org/odd has no model-2.safetensors, which is in its index.",
        ),
        (
            {"model__safetensors__index__json": "{", "model__safetensors": "w"},
            "org/odd: model.safetensors.index.json cannot be read.",
        ),
        (
            {"pytorch_model__bin": "w", "optimizer__pt": "w"},
            "org/odd has its weights only as pickle (pytorch_model.bin), and loading pickle can "
            "run any code: choose a repository with safetensors.",
        ),
        ({}, "org/odd has no weights."),
        ({"model__safetensors": "w", "config__json": None}, "org/odd has no config.json."),
    ],
    ids=["a missing shard", "a broken index", "pickle", "nothing", "no configuration"],
)
def test_a_repository_without_usable_weights_is_an_error_before_the_download(
    tmp_path, files, message
):
    has_config = "config__json" not in files
    content = {name: text for name, text in files.items() if text is not None}
    folder = model_folder(tmp_path / "repository", **content)
    if not has_config:
        (folder / "config.json").unlink()
    (tmp_path / "volume").mkdir()
    with running_hub(odd=Repository(folder)) as hub:
        answer = resolve(tmp_path / "volume", hub.url, MODEL_NAME="org/odd")
    assert answer == f"ModelUnavailable {message}"


def test_the_token_gives_access_to_a_gated_repository(tmp_path, hub):
    found = resolve(tmp_path, hub.url, MODEL_NAME="org/gated", HF_TOKEN=TOKEN)
    assert found.startswith("org/gated ")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"MODEL_NAME": "org/gated"},
            "ModelUnavailable org/gated: it is gated: accept its licence on the hub and set "
            "HF_TOKEN.",
        ),
        (
            {"MODEL_NAME": "org/missing"},
            "ModelUnavailable org/missing: no such repository on the hub, or it is private and "
            "HF_TOKEN gives no access.",
        ),
        (
            {"MODEL_NAME": "org/private"},
            "ModelUnavailable org/private: no such repository on the hub, or it is private and "
            "HF_TOKEN gives no access.",
        ),
        (
            {"MODEL_NAME": "org/public", "HF_TOKEN": "hf_wrong"},
            "ModelUnavailable org/public: the hub answered 401: HF_TOKEN is not valid.",
        ),
        (
            {"MODEL_NAME": "org/public", "HF_HUB_OFFLINE": "1"},
            "ModelUnavailable org/public: it is not in the cache, and HF_HUB_OFFLINE is set.",
        ),
        (
            {"MODEL_NAME": "org/public", "MODEL_REVISION": "v9"},
            "ModelUnavailable org/public has no revision 'v9' (MODEL_REVISION).",
        ),
    ],
    ids=["gated", "missing", "private", "token", "offline", "revision"],
)
def test_a_refusal_of_the_hub_is_one_sentence_that_says_what_to_do(tmp_path, hub, environ, message):
    assert resolve(tmp_path, hub.url, **environ) == message


# ---- one request before a download


def metadata_requests(hub):
    """Return the paths that were asked for before the first file, or all."""
    paths = [path for _, path, _ in hub.asked]
    files = [index for index, path in enumerate(paths) if "/resolve/" in path]
    return paths[: files[0]] if files else paths


@pytest.fixture
def named_hub(tmp_path):
    """A hub with names that can be mistyped."""
    folder = model_folder(tmp_path / "repository", model__safetensors="weights")
    names = ("Qwen/Qwen2.5-7B-Instruct-AWQ", "other/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-72B")
    (tmp_path / "volume").mkdir()
    with running_hub() as server:
        server.repositories |= {name: Repository(folder) for name in names}
        server.repositories["org/gated"] = Repository(folder, gated=True)
        server.repositories["org/new"] = Repository(folder, old_name="old")
        yield server


def test_one_request_comes_before_a_download(tmp_path, named_hub):
    name = "Qwen/Qwen2.5-7B-Instruct-AWQ"
    found = resolve(tmp_path / "volume", named_hub.url, MODEL_NAME=name)
    assert found.startswith(f"{name} ")
    assert metadata_requests(named_hub)[:1] == [f"/api/models/{name}/revision/main"]
    kinds = [path.rpartition("/models/")[2] for path in metadata_requests(named_hub)]
    assert [kind for kind in kinds if "/tree/" not in kind] == [f"{name}/revision/main"]


def test_a_gated_repository_with_access_takes_one_more(tmp_path, named_hub):
    environ = {"MODEL_NAME": "org/gated", "HF_TOKEN": TOKEN}
    assert resolve(tmp_path / "volume", named_hub.url, **environ).startswith("org/gated ")
    api = "/api/models/org/gated"
    assert metadata_requests(named_hub)[:2] == [f"{api}/revision/main", f"{api}/auth-check"]


def test_a_gated_repository_without_access_is_known_before_a_file_is_asked_for(tmp_path, named_hub):
    message = resolve(tmp_path / "volume", named_hub.url, MODEL_NAME="org/gated")
    assert message.startswith("ModelUnavailable org/gated: it is gated: ")
    api = "/api/models/org/gated"
    assert [path for _, path, _ in named_hub.asked] == [f"{api}/revision/main", f"{api}/auth-check"]


def test_a_hub_that_does_not_know_who_has_access_is_asked_for_the_files(tmp_path, named_hub):
    """As a mirror that has none of the hub's other routes."""
    named_hub.faults.append(Fault("auth-check", status=404))
    environ = {"MODEL_NAME": "org/gated", "HF_TOKEN": TOKEN}
    assert resolve(tmp_path / "volume", named_hub.url, **environ).startswith("org/gated ")


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("Qwen/Qwen2.5-7B-Instrct-AWQ", "Qwen/Qwen2.5-7B-Instruct-AWQ, other/Qwen2.5-7B"),
        ("Qwn/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct-AWQ, other/Qwen2.5-7B"),
        ("qwen2.5-7b-instruct-awq", "Qwen/Qwen2.5-7B-Instruct-AWQ, other/Qwen2.5-7B"),
    ],
    ids=["name", "owner", "no owner"],
)
def test_a_mistyped_name_is_an_error_with_the_names_that_are_like_it(
    tmp_path, named_hub, name, similar
):
    """In two requests: the metadata, and the search."""
    message = resolve(tmp_path / "volume", named_hub.url, MODEL_NAME=name)
    assert message.startswith(
        f"ModelUnavailable {name}: no such repository on the hub, or it is private and HF_TOKEN "
        f"gives no access; similar names there: {similar}"
    )
    paths = [path for _, path, _ in named_hub.asked]
    assert paths == [f"/api/models/{name}/revision/main", "/api/models"]


@pytest.mark.parametrize("base", ["Qwn2.5-7B-Instruct-AWQ", "Qwen25-7B-Instruct-AWQ"])
def test_a_mistake_in_the_first_words_is_found_among_the_owners_names(tmp_path, named_hub, base):
    """In a third request."""
    message = resolve(tmp_path / "volume", named_hub.url, MODEL_NAME=f"Qwen/{base}")
    assert "; similar names there: Qwen/Qwen2.5-7B-Instruct-AWQ" in message
    paths = [path for _, path, _ in named_hub.asked]
    assert paths == [f"/api/models/Qwen/{base}/revision/main", "/api/models", "/api/models"]


@pytest.mark.parametrize(
    "fault", [Fault("/api/models", status=500), Fault("/api/models", status=200)]
)
def test_a_hub_that_does_not_search_is_not_asked_again(tmp_path, named_hub, fault):
    named_hub.faults.append(fault)
    message = resolve(tmp_path / "volume", named_hub.url, MODEL_NAME="Qwen/Qwen2.5-7B-Instrct")
    assert message.endswith(" gives no access.")
    assert len(named_hub.asked) == 2


def test_a_renamed_repository_is_used_and_its_new_name_is_said(tmp_path, named_hub):
    done = run_resolve(tmp_path / "volume", named_hub.url, MODEL_NAME="org/old")
    assert done.stdout.startswith("org/old ")
    assert done.stderr.strip() == "org/old was renamed on the hub: set MODEL_NAME=org/new"


@pytest.mark.parametrize("url", ["hf-mirror.com", "http://", "ftp://u:word@host"])
def test_the_address_of_the_hub_must_be_a_url(tmp_path, url):
    shown = url.replace("u:word@", "")
    assert resolve(tmp_path, url, MODEL_NAME="org/public") == (
        f"InvalidSetting HF_ENDPOINT={shown!r} must be an http or https URL."
    )


def test_an_answer_that_is_not_a_hubs_is_an_error(tmp_path, hub):
    hub.faults.append(Fault("revision/main", status=200))
    assert resolve(tmp_path, hub.url, MODEL_NAME="org/public") == (
        f"ModelUnavailable org/public: {hub.url} is not a model hub: check HF_ENDPOINT."
    )


def test_a_hub_that_cannot_be_reached_is_an_error_with_its_url(tmp_path):
    assert resolve(tmp_path, NO_HUB, MODEL_NAME="org/public") == (
        f"ModelUnavailable org/public: the hub at {NO_HUB} cannot be reached, "
        "and there is no such local folder."
    )


def test_the_hub_is_asked_for_a_model_that_is_incomplete_on_the_volume(tmp_path):
    """Another worker may be downloading it."""
    snapshot = cached_snapshot(tmp_path / "huggingface-cache/hub", "models--org--public", "main")
    (snapshot / "model.safetensors").unlink()
    assert resolve(tmp_path, NO_HUB, MODEL_NAME="org/public") == (
        f"ModelUnavailable org/public: the hub at {NO_HUB} cannot be reached, "
        "and there is no such local folder."
    )
