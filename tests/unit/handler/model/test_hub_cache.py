"""Snapshots in a hub cache: found by revision, and only if they are complete."""

import json
from pathlib import Path

import pytest

from handler.model.hub_cache import caches_in_environ, find_snapshot, write_ref
from handler.model.reference import HubReference
from tests.support.hub import COMMIT
from tests.support.model_folders import INDEX, cached_snapshot


@pytest.mark.parametrize(
    ("folder", "ref", "revision"),
    [
        ("models--Org--Name", "main", None),
        ("models--org--name", "main", None),
        ("models--ORG--Name", "main", None),
        ("models--Org--Name", None, None),
        ("models--Org--Name", None, COMMIT),
        ("models--Org--Name", "v1", "v1"),
    ],
    ids=["as named", "lower case", "another case", "no ref", "commit", "branch"],
)
def test_a_snapshot_is_found_by_branch_commit_or_as_the_only_one(tmp_path, folder, ref, revision):
    snapshot = cached_snapshot(tmp_path, folder, ref)
    assert find_snapshot(tmp_path, HubReference("Org/Name", revision)) == snapshot


def test_a_snapshot_of_another_branch_is_not_taken(tmp_path):
    cached_snapshot(tmp_path, "models--org--name", "main")
    assert find_snapshot(tmp_path, HubReference("org/name", "v2")) is None


def remove_weights(snapshot):
    (snapshot / "model.safetensors").unlink()


def write_index(text):
    def write(snapshot):
        (snapshot / "model.safetensors.index.json").write_text(text)

    return write


def list_another_file(snapshot):
    """Write the list that huggingface-hub keeps of a download."""
    trees = snapshot.parents[1] / "trees"
    trees.mkdir()
    files = {"format_version": 1, "files": {"tokenizer.json": {}}}
    (trees / f"{COMMIT}.json").write_text(json.dumps(files))


@pytest.mark.parametrize(
    "damage",
    [remove_weights, write_index(INDEX), list_another_file, write_index("{")],
    ids=["no weights", "a shard", "a listed file", "a broken index"],
)
def test_an_incomplete_snapshot_is_not_taken(tmp_path, damage):
    snapshot = cached_snapshot(tmp_path, "models--org--name", "main")
    assert find_snapshot(tmp_path, HubReference("org/name")) == snapshot
    damage(snapshot)
    assert find_snapshot(tmp_path, HubReference("org/name")) is None


@pytest.mark.parametrize(
    ("files", "kind", "is_found"),
    [
        ({"tokenizer_config__json": "{}"}, "tokenizer", True),
        ({}, "tokenizer", False),
        ({"adapter_config__json": "{}", "adapter_model__safetensors": "w"}, "lora", True),
        ({"adapter_config__json": "{}"}, "lora", False),
    ],
    ids=["tokenizer", "no tokenizer", "adapter", "no adapter weights"],
)
def test_a_snapshot_must_have_what_is_asked_for(tmp_path, files, kind, is_found):
    snapshot = cached_snapshot(tmp_path, "models--org--name", "main", **files)
    found = find_snapshot(tmp_path, HubReference("org/name"), kind)
    assert found == (snapshot if is_found else None)


def test_a_recorded_ref_finds_the_snapshot_of_a_branch(tmp_path):
    snapshot = cached_snapshot(tmp_path, "models--org--name", None)
    reference = HubReference("org/name", "release/v1")
    write_ref(tmp_path, reference, COMMIT)
    assert find_snapshot(tmp_path, reference) == snapshot


def test_of_several_folders_in_another_case_none_is_taken(tmp_path, caplog):
    for folder in ("models--ORG--name", "models--Org--NAME"):
        cached_snapshot(tmp_path, folder, "main")
    assert find_snapshot(tmp_path, HubReference("Org/Name")) is None
    assert caplog.messages == [
        f"{tmp_path} has several folders for Org/Name: models--ORG--name, models--Org--NAME"
    ]
    named = cached_snapshot(tmp_path, "models--Org--Name", "main")
    assert find_snapshot(tmp_path, HubReference("Org/Name")) == named


def test_the_users_variables_name_caches_in_the_order_in_which_they_win():
    environ = {
        "DOWNLOAD_DIR": "'/v/downloads'",
        "HF_HOME": "~/hf",
        "HF_HUB_CACHE": " ",
        "HUGGINGFACE_HUB_CACHE": "/v/$X/hub",
        "TRANSFORMERS_CACHE": "/v/old",
    }
    assert list(caches_in_environ(environ).items()) == [
        ("HUGGINGFACE_HUB_CACHE", Path("/v/$X/hub")),
        ("HF_HOME", Path.home() / "hf/hub"),
        ("TRANSFORMERS_CACHE", Path("/v/old")),
        ("DOWNLOAD_DIR", Path("/v/downloads")),
    ]
    assert caches_in_environ({"DOWNLOAD_DIR": "None", "HF_HOME": ""}) == {}


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_snapshot_whose_blobs_are_gone_is_not_taken(tmp_path, caplog, name):
    snapshot = cached_snapshot(tmp_path, "models--org--name", "main")
    (snapshot / name).unlink(missing_ok=True)
    (snapshot / "README.md").symlink_to("gone")  # no engine reads it
    (snapshot / "other.safetensors").write_bytes(b"")
    assert find_snapshot(tmp_path, HubReference("org/name")) == snapshot
    (snapshot / name).symlink_to("gone")
    assert find_snapshot(tmp_path, HubReference("org/name")) is None
    assert caplog.messages == [f"{snapshot}: the target of the link {name} is missing"]


def test_a_ref_that_is_not_text_is_ignored(tmp_path):
    snapshot = cached_snapshot(tmp_path, "models--org--name", "main")
    (snapshot.parents[1] / "refs/main").write_bytes(b"\xff\xfe")
    assert find_snapshot(tmp_path, HubReference("org/name")) is None
