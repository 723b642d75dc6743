"""`python -m builder.fetch`: Mistral's own format, names in another case, named repositories."""

import json
import subprocess
import sys

import pytest

from handler.model.dependencies import find_dependencies
from handler.model.manifest import Manifest, read_manifest
from handler.model.reference import HubReference
from handler.model.sources import ModelSources
from tests.support.environment import ROOT, clean_environment
from tests.support.hub import COMMIT, TOKEN, Repository, running_hub
from tests.support.model_folders import model_folder

AWQ = {"quant_method": "awq"}
FP8 = {"quantization": {"qformat_weight": "fp8_e4m3"}}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    mistral = root / "mistral"
    mistral.mkdir()
    for folder in (mistral, model_folder(root / "both", AWQ, model__safetensors="w")):
        (folder / "params.json").write_text(json.dumps(FP8))
        (folder / "consolidated.safetensors").write_text("w")
        (folder / "tekken.json").write_text("{}")
    code = model_folder(root / "code", configuration_x__py="pass", model__safetensors="w")
    named = model_folder(root / "named", model__safetensors="w")
    config = {"auto_map": {"AutoConfig": "ORG/code--configuration_x.C"}}
    (named / "config.json").write_text(json.dumps(config | {"quantization_config": AWQ}))
    speculator = model_folder(root / "speculator", model__safetensors="w")
    config = {"speculators_config": {"verifier": {"name_or_path": "org/named"}}}
    (speculator / "config.json").write_text(json.dumps(config))
    lost = model_folder(root / "lost", model__safetensors="w")
    config = {"speculators_config": {"verifier": {"name_or_path": "org/gated"}}}
    (lost / "config.json").write_text(json.dumps(config))
    with running_hub(
        mistral=Repository(mistral),
        both=Repository(root / "both"),
        code=Repository(code),
        named=Repository(named),
        speculator=Repository(speculator),
        lost=Repository(lost),
        gated=Repository(named, gated=True),
    ) as server:
        yield server


def fetch(hub, folder, *arguments, **environ):
    """Run the command; return its exit code and the last line of its log."""
    done = subprocess.run(
        [sys.executable, "-m", "builder.fetch", *arguments, "--out", folder],
        cwd=ROOT,
        env=clean_environment(HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1", **environ),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr.strip().splitlines()[-1].removeprefix("fetch: ")


def manifest_files(folder):
    return [
        file.path
        for file in Manifest.model_validate_json((folder / "manifest.json").read_bytes()).files
    ]


OWN_FILES = ["consolidated.safetensors", "params.json", "tekken.json"]


@pytest.mark.parametrize(
    ("repository", "environ", "files"),
    [
        ("org/mistral", {}, OWN_FILES),
        ("org/both", {}, ["config.json", "model.safetensors", "params.json", "tekken.json"]),
        ("org/both", {"LOAD_FORMAT": "mistral"}, sorted([*OWN_FILES, "config.json"])),
    ],
    ids=["alone", "both", "LOAD_FORMAT"],
)
def test_one_format_of_weights_is_fetched(tmp_path, hub, repository, environ, files):
    assert fetch(hub, tmp_path / "m", repository, **environ)[0] == 0
    assert manifest_files(tmp_path / "m") == files


def test_another_format_is_fetched_again(tmp_path, hub):
    fetch(hub, tmp_path / "m", "org/both")
    fetch(hub, tmp_path / "m", "org/both", LOAD_FORMAT="mistral")
    assert "consolidated.safetensors" in manifest_files(tmp_path / "m")


def test_a_folder_is_kept_for_a_name_in_another_case(tmp_path, hub):
    fetch(hub, tmp_path / "m", "org/both")
    assert fetch(hub, tmp_path / "m", "ORG/Both") == (
        0,
        f"{tmp_path / 'm'} is at commit {COMMIT}, nothing to do",
    )


SNAPSHOTS = [f"hub/models--org--{name}/snapshots/{COMMIT}" for name in ("code", "named")]


def test_code_of_another_repository_is_fetched_into_the_folder(tmp_path, hub):
    folder = tmp_path / "baked" / "model"
    assert fetch(hub, folder, "org/named")[0] == 0
    assert manifest_files(folder) == [
        *("config.json", "model.safetensors"),
        *(f"{SNAPSHOTS[0]}/configuration_x.py", "hub/models--org--code/refs/main"),
    ]
    sources = ModelSources(tmp_path / "volume", baked=tmp_path / "baked")
    model = sources.find(HubReference("org/named"))
    [code] = find_dependencies(model, sources)
    assert (code.path, code.name, code.is_local) == (folder / SNAPSHOTS[0], "ORG/code", True)
    assert fetch(hub, folder, "org/named")[1].endswith("nothing to do")


def test_a_verifier_is_fetched_with_its_weights_and_its_code(tmp_path, hub):
    folder = tmp_path / "m"
    assert fetch(hub, folder, "org/speculator", "--quantization", "none")[0] == 0
    for path in (f"{SNAPSHOTS[1]}/model.safetensors", f"{SNAPSHOTS[0]}/configuration_x.py"):
        assert path in manifest_files(folder)
    read_manifest(folder).check(folder)


def test_as_a_draft_it_comes_without_its_verifier(tmp_path, hub):
    assert fetch(hub, tmp_path / "m", "org/speculator", "--kind", "draft")[0] == 0
    assert manifest_files(tmp_path / "m") == ["config.json", "model.safetensors"]


def test_a_verifier_that_is_gated_is_named_with_the_build_secret(tmp_path, hub):
    arguments = ("org/lost", "--quantization", "none")
    assert fetch(hub, tmp_path / "m", *arguments) == (
        3,
        "config.json of org/lost names org/gated: it is gated: accept its licence on the hub and "
        "set HF_TOKEN (docker build takes it as a secret: --secret id=HF_TOKEN,env=HF_TOKEN; a "
        "--build-arg is not read).",
    )
    assert fetch(hub, tmp_path / "m", *arguments, HF_TOKEN=TOKEN)[0] == 0
