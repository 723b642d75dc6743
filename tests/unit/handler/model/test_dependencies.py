"""Other repositories that a configuration names."""

import json

import pytest

from handler.errors import ModelUnavailable
from handler.model.dependencies import (
    FETCHED_CACHE,
    Dependency,
    dependencies,
    find_dependencies,
    link_into_cache,
)
from handler.model.hub_cache import find_snapshot
from handler.model.reference import HubReference
from handler.model.sources import VOLUME_CACHE, FoundFiles, ModelSources
from tests.support.hub import COMMIT
from tests.support.model_folders import cached_snapshot, model_folder


@pytest.mark.parametrize(
    ("file", "config", "named"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "org/code--x.C"}}, [("org/code", "code")]),
        ("config.json", {"auto_map": {"AutoConfig": "x.C"}}, []),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["org/slow--t.Slow", None]}},
            [("org/slow", "code")],
        ),
        (
            "processor_config.json",
            {"image_processor": {"auto_map": {"AutoImageProcessor": ["a/b--x.S", "a/b--x.F"]}}},
            [("a/b", "code")],
        ),
        (
            "config.json",
            {"speculators_config": {"verifier": {"name_or_path": "org/big"}}},
            [("org/big", "model")],
        ),
        ("config.json", {"speculators_config": {"verifier": {"name_or_path": "/mnt/big"}}}, []),
        (
            "config.json",
            {"model_type": "ultravox", "text_model_id": "org/text", "audio_model_id": None},
            [("org/text", "model")],
        ),
        ("config.json", {"text_model_id": "org/text"}, []),
        (
            "processor_config.json",
            {"audio_tokenizer": {"audio_tokenizer_name_or_path": "org/codec"}},
            [("org/codec", "model")],
        ),
        ("config.json", {"_name_or_path": "org/base--x", "auto_map": None}, []),
        ("config.json", [], []),
    ],
)
def test_the_repositories_in_a_configuration(tmp_path, file, config, named):
    (tmp_path / file).write_text(json.dumps(config))
    assert dependencies(tmp_path) == [Dependency(name, kind, file) for name, kind in named]


def test_the_verifier_of_a_draft_is_the_model_in_the_settings(tmp_path):
    config = {"speculators_config": {"verifier": {"name_or_path": "org/big"}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert dependencies(tmp_path, is_draft=True) == []


def naming(tmp_path, config):
    folder = model_folder(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps(config))
    return FoundFiles(folder, "m", "a local folder")


@pytest.fixture
def sources(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return ModelSources(tmp_path / "volume", baked=tmp_path / "baked")


def test_code_is_found_in_the_fetched_folder_before_the_volume(tmp_path, sources):
    model = naming(tmp_path, {"auto_map": {"AutoConfig": "Org/Code--x.C"}})
    on_volume = cached_snapshot(
        sources.base_path / VOLUME_CACHE, "models--org--code", "main", x__py="pass"
    )
    [found] = find_dependencies(model, sources)
    assert found.path == on_volume
    fetched = cached_snapshot(model.path / FETCHED_CACHE, "models--Org--Code", "main", x__py="pass")
    [found] = find_dependencies(model, sources)
    assert found.path == fetched


def test_what_a_verifier_names_is_found_too(tmp_path, sources):
    cache = sources.base_path / VOLUME_CACHE
    verifier = cached_snapshot(cache, "models--org--big", "main")
    config = {"auto_map": {"AutoConfig": "org/code--x.C"}}
    (verifier / "config.json").write_text(json.dumps(config))
    code = cached_snapshot(cache, "models--org--code", "main", x__py="pass")
    model = naming(tmp_path, {"speculators_config": {"verifier": {"name_or_path": "org/big"}}})
    assert [found.path for found in find_dependencies(model, sources)] == [verifier, code]


def test_repositories_may_name_each_other(tmp_path, sources):
    cache = sources.base_path / VOLUME_CACHE
    snapshots = []
    for name, other in (("a", "b"), ("b", "a")):
        snapshot = cached_snapshot(cache, f"models--org--{name}", "main")
        config = {"verifier": {"name_or_path": f"org/{other}"}}
        (snapshot / "config.json").write_text(json.dumps(config))
        snapshots.append(snapshot)
    found = list(find_dependencies(FoundFiles(snapshots[0], "org/a", "the volume"), sources))
    assert [each.path for each in found] == [snapshots[1], snapshots[0]]


def test_a_verifier_that_is_not_available_is_an_error_that_says_who_names_it(tmp_path, sources):
    model = naming(tmp_path, {"speculators_config": {"verifier": {"name_or_path": "/big"}}})
    assert list(find_dependencies(model, sources)) == []
    model = naming(tmp_path, {"speculators_config": {"verifier": {"name_or_path": "org/big"}}})
    with pytest.raises(ModelUnavailable, match=r"^config\.json of m names org/big: "):
        list(find_dependencies(model, sources))


def test_code_that_is_not_available_is_a_warning(tmp_path, sources, caplog):
    """Without TRUST_REMOTE_CODE no engine needs it."""
    model = naming(tmp_path, {"auto_map": {"AutoConfig": "org/code--x.C"}})
    assert list(find_dependencies(model, sources)) == []
    [message] = [each for each in caplog.messages if "names code" in each]
    assert message.startswith("config.json of m names code that is not available: org/code: ")


def test_links_are_a_hub_cache_under_the_name_in_the_configuration(tmp_path):
    snapshot = cached_snapshot(tmp_path / "volume", "models--Org--Code", "main", x__py="pass")
    found = FoundFiles(snapshot, "org/code", "the volume")
    for _ in range(2):  # a restart
        link_into_cache([found], tmp_path / "links")
    linked = find_snapshot(tmp_path / "links", HubReference("org/code"), "code")
    assert linked == tmp_path / "links/models--org--code/snapshots" / COMMIT
    assert (linked / "x.py").read_text() == "pass"
