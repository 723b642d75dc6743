"""What is fetched of repositories in other forms, and where it is found by the next worker."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT, clean_environment
from tests.support.hub import COMMIT, Repository, running_hub
from tests.support.model_folders import INDEX, cached_snapshot, model_folder, safetensors
from tests.support.resolved_model import resolve, run_resolve

NO_HUB = "http://127.0.0.1:9"
PARAMS = {"dim": 64, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 64}
CODE = """
from transformers import PreTrainedConfig

from .part import TYPE


class C(PreTrainedConfig):
    model_type = TYPE
"""


def mistral_folder(folder, *others):
    """Write a checkpoint in Mistral's own format, and other files."""
    folder.mkdir()
    index = {"weight_map": {"a": "consolidated-1.safetensors"}}
    (folder / "params.json").write_text(json.dumps(PARAMS))
    (folder / "consolidated.safetensors.index.json").write_text(json.dumps(index))
    (folder / "tokenizer.model.v3").write_bytes(b"\n\x03\n\x01a")
    for name in ("consolidated-1.safetensors", *others):
        content = "{}" if name.endswith(".json") else safetensors("w").decode()
        (folder / name).write_text(content)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    code = root / "code"
    code.mkdir()
    (code / "config.json").write_text("{}")
    (code / "part.py").write_text('TYPE = "named"\n')
    (code / "configuration_x.py").write_text(CODE)
    names = {"auto_map": {"AutoConfig": "org/code--configuration_x.C"}, "model_type": "named"}
    model = model_folder(root / "model", model__safetensors="w")
    (model / "config.json").write_text(json.dumps(names))
    speculator = model_folder(root / "speculator", model__safetensors="w")
    verifier = {"speculators_config": {"verifier": {"name_or_path": "org/sharded"}}}
    (speculator / "config.json").write_text(json.dumps(verifier))
    sharded = model_folder(
        root / "sharded",
        model__safetensors__index__json=INDEX,
        **{"model-1__safetensors": "w", "model-2__safetensors": "w", "old__safetensors": "w"},
    )
    with running_hub(
        mistral=Repository(mistral_folder(root / "mistral")),
        both=Repository(mistral_folder(root / "both", "config.json", "model.safetensors")),
        code=Repository(code),
        model=Repository(model),
        speculator=Repository(speculator),
        sharded=Repository(sharded),
        Qwen3_AWQ=Repository(model_folder(root / "qwen", model__safetensors="w")),
    ) as server:
        yield server


def snapshot(cache, repository):
    return Path(cache, f"models--{repository.replace('/', '--')}", "snapshots", COMMIT)


def file_names(folder):
    return sorted(path.name for path in folder.iterdir())


OWN_FILES = [
    *("consolidated-1.safetensors", "consolidated.safetensors.index.json"),
    *("params.json", "tokenizer.model.v3"),
]


@pytest.mark.parametrize(
    ("repository", "environ", "files"),
    [
        ("mistral", {}, OWN_FILES),
        (
            "both",
            {},
            ["config.json", "model.safetensors", "params.json", "tokenizer.model.v3"],
        ),
        ("both", {"LOAD_FORMAT": "mistral"}, sorted([*OWN_FILES, "config.json"])),
        (
            "both",
            {"ENGINE_ARGS": "--config-format mistral"},
            sorted([*OWN_FILES, "config.json"]),
        ),
    ],
    ids=["alone", "both", "LOAD_FORMAT", "ENGINE_ARGS"],
)
def test_one_format_of_weights_is_fetched(tmp_path, hub, repository, environ, files):
    name = f"org/{repository}"
    found = resolve(tmp_path, hub.url, MODEL_NAME=name, **environ)
    folder = snapshot(tmp_path / "huggingface-cache/hub", name)
    assert found == f"{name} {folder}"
    assert file_names(folder) == files
    assert resolve(tmp_path, NO_HUB, MODEL_NAME=name, **environ) == found


def test_a_name_in_another_case_is_found_where_any_worker_has_put_it(tmp_path, hub):
    folder = snapshot(tmp_path / "huggingface-cache/hub", "org/Qwen3-AWQ")
    found = resolve(tmp_path, hub.url, MODEL_NAME="ORG/qwen3-awq")
    assert found == f"ORG/qwen3-awq {folder}"
    for name in ("ORG/qwen3-awq", "org/Qwen3-AWQ", "org/qwen3-awq"):
        assert resolve(tmp_path, NO_HUB, MODEL_NAME=name) == f"{name} {folder}"


def test_the_code_of_another_repository_is_there_for_a_worker_without_the_hub(tmp_path, hub):
    environ = {"MODEL_NAME": "org/model", "CACHE_ROOT": str(tmp_path / "root")}
    links = tmp_path / "root/hub"
    found = f"org/model {snapshot(tmp_path / 'huggingface-cache/hub', 'org/model')}"
    first = resolve(tmp_path, hub.url, **environ)
    assert first.splitlines() == [found, f"{links} False"]
    second = resolve(tmp_path, NO_HUB, **environ)
    assert second.splitlines() == [found, f"{links} True"]
    code = (
        "from transformers import AutoConfig\n"
        f"config = AutoConfig.from_pretrained({found.split()[1]!r}, trust_remote_code=True)\n"
        "print(type(config).__name__, config.model_type)\n"
    )
    environment = clean_environment(
        HF_HUB_CACHE=str(links), HF_HUB_OFFLINE="1", HF_MODULES_CACHE=str(tmp_path / "modules")
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "C named\n", done.stderr


def test_the_verifier_of_a_speculators_model_is_fetched_with_its_weights(tmp_path, hub):
    environ = {"MODEL_NAME": "org/speculator", "CACHE_ROOT": str(tmp_path / "root")}
    resolve(tmp_path, hub.url, **environ)
    folder = snapshot(tmp_path / "root/hub", "org/sharded")
    assert [name for name in file_names(folder) if name.endswith(".safetensors")] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]


@pytest.mark.parametrize(
    ("variable", "below"),
    [
        ("HF_HOME", "hub"),
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("TRANSFORMERS_CACHE", ""),
        ("DOWNLOAD_DIR", ""),
    ],
)
def test_a_cache_that_the_user_names_is_used_and_filled(tmp_path, hub, variable, below):
    own = tmp_path / "own" / below
    complete = cached_snapshot(own, "models--org--model", "main")
    environ = {variable: str(tmp_path / "own")}
    done = run_resolve(tmp_path, NO_HUB, MODEL_NAME="org/model", **environ)
    assert done.stdout.strip() == f"org/model {complete}"
    shutil.rmtree(own)
    found = resolve(tmp_path, hub.url, MODEL_NAME="org/sharded", **environ)
    assert found == f"org/sharded {snapshot(own, 'org/sharded')}"


@pytest.mark.parametrize("own", [{}, {"HF_HUB_CACHE": "own"}], ids=["default", "the user's"])
@pytest.mark.parametrize("repository", ["sharded", "model"], ids=["alone", "with code"])
def test_the_engine_looks_where_the_files_are(tmp_path, hub, own, repository):
    """Also for what the worker does not know that the engine wants."""
    code = (
        "import os, time\n"
        "from handler.settings.environ import load_settings\n"
        "from handler.startup.timings import StartupTimings\n"
        "from handler.worker_process import WorkerProcess\n"
        "timings = StartupTimings(time.time())\n"
        "worker = WorkerProcess(load_settings(os.environ), os.environ, timings)\n"
        "worker._resolve_model(before_download=lambda: None)\n"
        "print(os.environ['HF_HUB_CACHE'])\n"
    )
    own = {name: str(tmp_path / folder) for name, folder in own.items()}
    environ = {"MODEL_NAME": f"org/{repository}", "CACHE_ROOT": str(tmp_path / "root"), **own}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(HF_ENDPOINT=hub.url, BASE_PATH=str(tmp_path), **environ),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    cache = own.get("HF_HUB_CACHE", tmp_path / "huggingface-cache/hub")
    expected = tmp_path / "root/hub" if repository == "model" else cache
    assert done.stdout.splitlines()[-1:] == [str(expected)], done.stderr
