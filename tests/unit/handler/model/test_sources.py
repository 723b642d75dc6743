"""Where a model's files are found: the image, the platform's cache, a folder, the volume."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from handler.errors import InvalidSetting, ModelUnavailable
from handler.model.reference import HubReference
from handler.model.sources import BAKED, VOLUME_CACHE, ModelSources
from tests.support.hub import COMMIT
from tests.support.model_folders import baked_folder, cached_snapshot, model_folder


@pytest.fixture
def sources(tmp_path):
    """Sources without anything in them."""
    return ModelSources(
        base_path=tmp_path / "volume",
        baked=tmp_path / "baked",
        platform_cache=tmp_path / "platform",
    )


def test_a_local_folder_gives_the_model_its_name(tmp_path, sources):
    folder = model_folder(tmp_path / "my-model")
    found = sources.find(HubReference(str(folder)))
    assert (found.path, found.name, found.source) == (folder, "my-model", "a local folder")
    assert found.is_local


def test_baked_weights_are_outside_of_every_mount_of_a_volume():
    mounts = (Path("/runpod-volume"), Path("/workspace"))
    assert not any(BAKED.is_relative_to(mount) for mount in mounts)


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_baked_weights_are_found_by_the_branch_and_the_commit_of_the_build(sources, revision):
    folder = baked_folder(sources.baked / "model")
    found = sources.find(HubReference("org/name", revision))
    assert (found.path, found.source) == (folder, f"the image, commit {COMMIT[:12]}")


@pytest.mark.parametrize(
    ("name", "revision"), [("org/other", None), ("org/name", "v2")], ids=["name", "revision"]
)
def test_the_image_is_no_substitute_for_another_model(sources, name, revision):
    baked_folder(sources.baked / "model")
    volume = sources.base_path / VOLUME_CACHE
    folder = f"models--{name.replace('/', '--')}"
    snapshot = cached_snapshot(volume, folder, revision or "main")
    found = sources.find(HubReference(name, revision))
    assert (found.path, found.source) == (snapshot, "the volume")


def test_the_sources_are_searched_in_order(tmp_path, sources, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [
        baked_folder(sources.baked / "model"),
        cached_snapshot(sources.platform_cache, "models--org--name", "main"),
        model_folder(tmp_path / "org/name"),
        cached_snapshot(sources.base_path / VOLUME_CACHE, "models--org--name", "main"),
    ]
    found = []
    for folder in folders:
        found.append(sources.find(HubReference("org/name")).path)
        shutil.rmtree(folder)
    assert found == folders


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "model.safetensors is missing, expected 75 bytes"),
        (
            lambda file: file.write_text("half"),
            "model.safetensors has 4 bytes, expected 75 bytes",
        ),
    ],
    ids=["missing", "short"],
)
def test_damaged_baked_weights_are_an_error(sources, damage, message):
    folder = baked_folder(sources.baked / "model")
    damage(folder / "model.safetensors")
    with pytest.raises(ModelUnavailable) as caught:
        sources.find(HubReference("org/name"))
    assert str(caught.value) == (
        f"org/name in {folder} is damaged: {message}. Build the image again."
    )


def test_an_unreadable_manifest_is_an_error(sources):
    folder = baked_folder(sources.baked / "model")
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ModelUnavailable) as caught:
        sources.find(HubReference("org/name"))
    assert str(caught.value) == f"{folder}/manifest.json is not a manifest of `builder fetch`."


def test_a_folder_from_the_hub_has_the_name_of_its_repository(tmp_path, sources):
    snapshot = cached_snapshot(tmp_path, "models--Qwen--Qwen2.5-7B-Instruct-AWQ", "main")
    assert sources.find(HubReference(str(snapshot))).name == "Qwen/Qwen2.5-7B-Instruct-AWQ"
    (snapshot / "manifest.json").write_text('{"manifest": "of another program"}')
    assert sources.find(HubReference(str(snapshot))).name == "Qwen/Qwen2.5-7B-Instruct-AWQ"
    fetched = baked_folder(tmp_path / "fetched")
    assert sources.find(HubReference(str(fetched))).name == "org/name"


@pytest.mark.parametrize("name", ["/no/such/folder", "./models/none", "~nobody-here/x"])
def test_a_path_is_never_looked_up_on_the_hub(sources, name):
    with pytest.raises(ModelUnavailable) as caught:
        sources.find(HubReference(name))
    assert str(caught.value) == (
        f"MODEL_NAME={name!r} is a path that does not exist: check the mount of the volume."
    )


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("model.gguf", " is a file, but must be the folder of the model"),
        ("empty", " looks like a local folder, but has no config.json"),
        ("gguf", ": the folder has only GGUF weights: choose one with safetensors"),
        (
            "lora",
            ": the folder is a LoRA adapter: name it in LORA_MODULES, and give the model that "
            "base_model_name_or_path in its adapter_config.json names",
        ),
        (
            "models--org--name/snapshots",
            " is a repository's folder in a hub cache: give its name, org/name",
        ),
        ("models--org--name", " is a repository's folder in a hub cache: give its name, org/name"),
    ],
    ids=["file", "empty", "gguf", "adapter", "snapshots", "repository in a cache"],
)
def test_a_path_that_is_no_model_says_what_it_is(tmp_path, sources, path, reason):
    (tmp_path / "model.gguf").write_text("GGUF")
    for file in ("empty/x", "gguf/m.gguf", "lora/adapter_config.json"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("{}")
    cached_snapshot(tmp_path, "models--org--name", "main")
    name = str(tmp_path / path)
    with pytest.raises(ModelUnavailable) as caught:
        sources.find(HubReference(name))
    assert str(caught.value) == f"MODEL_NAME={name!r}{reason}."


def test_a_copied_url_finds_the_repository_on_the_volume(sources):
    snapshot = cached_snapshot(sources.base_path / VOLUME_CACHE, "models--org--name", "v1")
    found = sources.find(HubReference("https://huggingface.co/org/name/tree/v1"))
    assert (found.path, found.name) == (snapshot, "org/name")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("tokenizer", "tokenizer"), ("lora", "adapter_config.json")],
    ids=["tokenizer", "lora"],
)
def test_a_folder_must_have_what_the_setting_is_for(tmp_path, sources, kind, missing):
    with pytest.raises(ModelUnavailable) as caught:
        sources.find(HubReference(str(tmp_path), setting="SOME_NAME"), kind)
    assert str(caught.value) == (
        f"SOME_NAME={str(tmp_path)!r} looks like a local folder, but has no {missing}."
    )


def test_an_invalid_name_of_a_repository_is_an_error(sources):
    with pytest.raises(InvalidSetting) as caught:
        sources.find(HubReference("a/b/c"))
    assert str(caught.value) == (
        "MODEL_NAME='a/b/c' must be the name of a repository (org/name), "
        "and there is no such local folder."
    )


def test_a_name_too_long_for_a_file_is_shortened_in_the_error(sources):
    with pytest.raises(InvalidSetting) as caught:
        sources.find(HubReference("x" * 300))
    assert str(caught.value) == f"MODEL_NAME='{'x' * 100}…': File name too long."


def test_the_users_caches_come_before_the_volumes(tmp_path, sources):
    on_volume = cached_snapshot(sources.base_path / VOLUME_CACHE, "models--org--name", "main")
    first, second = tmp_path / "first", tmp_path / "second"
    sources = replace(sources, user_caches={"HF_HOME": first, "DOWNLOAD_DIR": second})
    assert sources.find(HubReference("org/name")).path == on_volume
    in_second = cached_snapshot(second, "models--org--name", "main")
    found = sources.find(HubReference("org/name"))
    assert (found.path, found.source) == (in_second, "the cache in DOWNLOAD_DIR")
    in_first = cached_snapshot(first, "models--org--name", "main")
    assert sources.find(HubReference("org/name")).path == in_first


def test_downloads_go_to_the_first_cache_that_can_be_written_to(tmp_path, sources):
    assert sources.hub_cache() is None
    sources.base_path.mkdir()
    assert sources.hub_cache() == sources.base_path / VOLUME_CACHE
    own = {"HF_HUB_CACHE": Path("/proc/none"), "HF_HOME": tmp_path / "own"}
    sources = replace(sources, user_caches=own)
    assert sources.environment() == {"HF_HUB_CACHE": str(tmp_path / "own")}


def test_the_image_is_found_by_a_name_in_another_case(sources):
    folder = baked_folder(sources.baked / "model")
    found = sources.find(HubReference("ORG/Name"))
    assert (found.path, found.name) == (folder, "ORG/Name")


def test_an_image_without_mistrals_format_is_not_taken_where_that_is_asked_for(sources):
    baked_folder(sources.baked / "model")
    folder = cached_snapshot(
        sources.base_path / VOLUME_CACHE,
        "models--org--name",
        "main",
        params__json="{}",
        consolidated__safetensors="w",
    )
    assert sources.find(HubReference("org/name", mistral_requested=True)).path == folder
