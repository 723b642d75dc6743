"""The weights are found where they are, and what is missing is said in one sentence."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handler.environ import load
from handler.errors import InvalidSetting, ModelUnavailable
from handler.model.checkpoint import quantization_of
from handler.model.hub_download import Halves
from handler.model.manifest import Manifest, ManifestFile
from handler.model.resolve import locate
from handler.model.sources import BAKED
from tests.support.environment import ROOT, clean_environment
from tests.support.hub import COMMIT, TOKEN, Fault, Repository, running_hub


def checkpoint(folder: Path, quantization=None, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"quantization_config": quantization} if quantization else {}
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture
def nothing_baked(tmp_path):
    return tmp_path / "nothing-baked"


def test_a_local_folder(tmp_path, nothing_baked):
    """MODEL_NAME may be a folder; the model then has the folder's name."""
    folder = checkpoint(tmp_path / "my-model", {"quant_method": "awq"})
    model = locate(load({"MODEL_NAME": str(folder)}), nothing_baked)
    assert (model.path, model.name, model.quantization) == (folder, "my-model", "awq")
    assert model.is_local


def bake(folder: Path, repository: str = "org/name", **files: str) -> Path:
    """A folder as the image's build leaves it."""
    checkpoint(folder, {"quant_method": "awq"}, model__safetensors="weights", **files)
    there = [path for path in folder.iterdir() if path.name != "manifest.json"]
    Manifest(
        repository=repository,
        revision="v1",
        commit=COMMIT,
        quantization="awq",
        licence="mit",
        files=tuple(
            ManifestFile(path=p.name, bytes=p.stat().st_size, sha256="0" * 64) for p in there
        ),
        total_bytes=sum(path.stat().st_size for path in there),
        fetched="2026-11-22T14:00:00+00:00",
    ).write(folder)
    return folder


def test_a_mounted_volume_does_not_hide_baked_weights(tmp_path):
    """They lie outside of every folder that a volume is mounted on, and need no MODEL_NAME."""
    folder = bake(tmp_path / "baked/model")
    volume = tmp_path / "runpod-volume"
    checkpoint(volume / "huggingface-cache/hub/models--org--name/snapshots" / COMMIT)
    model = locate(load({"BASE_PATH": str(volume)}), tmp_path / "baked")
    assert (model.path, model.name, model.is_local) == (folder, "org/name", True)
    assert model.source == f"the image, commit {COMMIT[:12]}"
    mounts = (Path("/runpod-volume"), Path("/workspace"))
    assert not any(BAKED.is_relative_to(mount) for mount in mounts)


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_baked_weights_are_taken_under_every_name_that_is_theirs(tmp_path, revision):
    """The branch that was asked for in the build, and the commit that it was then."""
    folder = bake(tmp_path / "baked/model")
    environ = {"MODEL_NAME": "org/name"} | ({"MODEL_REVISION": revision} if revision else {})
    assert locate(load(environ), tmp_path / "baked").path == folder


@pytest.mark.parametrize("asked", [{"MODEL_NAME": "org/other"}, {"MODEL_REVISION": "v2"}])
def test_another_model_than_the_baked_one_is_looked_for_elsewhere(tmp_path, asked):
    """The image's is no silent substitute."""
    bake(tmp_path / "baked/model")
    other = cache(tmp_path, "models--org--other", ref="main")
    cache(tmp_path, "models--org--name", ref="v2")
    environ = {"MODEL_NAME": "org/name", "BASE_PATH": str(tmp_path)} | asked
    model = locate(load(environ), tmp_path / "baked")
    assert model.source == "the volume"
    assert (model.path == other) == ("MODEL_NAME" in asked)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "model.safetensors is missing, the manifest says 7 bytes"),
        (
            lambda file: file.write_text("half"),
            "model.safetensors has 4 bytes, the manifest says 7 bytes",
        ),
    ],
    ids=["missing", "short"],
)
def test_damaged_baked_weights_are_said(tmp_path, damage, message):
    """Before the engine loads half of them."""
    folder = bake(tmp_path / "baked/model")
    damage(folder / "model.safetensors")
    with pytest.raises(ModelUnavailable) as caught:
        locate(load({}), tmp_path / "baked")
    assert str(caught.value) == (
        f"org/name in {folder} is damaged: {message}. Build the image again."
    )


def test_an_unreadable_manifest_is_said(tmp_path):
    """It is not taken for an image without a model."""
    folder = bake(tmp_path / "baked/model")
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ModelUnavailable) as caught:
        locate(load({}), tmp_path / "baked")
    assert str(caught.value) == f"{folder}/manifest.json is no manifest of a model."


def test_a_baked_tokenizer_and_draft_are_found_by_name(tmp_path):
    """The tokenizer is used unless another is named; the draft when it is named."""
    baked = tmp_path / "baked"
    bake(baked / "model")
    tokenizer = bake(baked / "tokenizer", "org/tokenizer", tokenizer_config__json="{}")
    draft = bake(baked / "draft", "org/draft")
    assert locate(load({}), baked).tokenizer == tokenizer
    assert locate(load({"TOKENIZER_NAME": "org/tokenizer"}), baked).tokenizer == tokenizer
    speculative = json.dumps({"model": "org/draft", "num_speculative_tokens": 3})
    assert locate(load({"SPECULATIVE_CONFIG": speculative}), baked).draft == draft
    assert locate(load({}), baked).draft is None
    own = checkpoint(tmp_path / "own", tokenizer_config__json="{}")
    assert locate(load({"TOKENIZER_NAME": str(own)}), baked).tokenizer == own
    with pytest.raises(ModelUnavailable, match="but there is no tokenizer in it"):
        locate(load({"TOKENIZER_NAME": str(tmp_path)}), baked)


@pytest.mark.parametrize(
    "asked",
    [
        {"TOKENIZER_NAME": "org/name"},
        {"SPECULATIVE_CONFIG": '{"model": "org/name", "method": "mtp"}'},
        {"SPECULATIVE_CONFIG": '{"model": "[ngram]", "method": "ngram"}'},
        {"SPECULATIVE_CONFIG": '{"model": null}'},
        {"SPECULATIVE_METHOD": "ngram"},
    ],
)
def test_with_baked_weights_the_hub_is_never_asked(tmp_path, asked):
    """Also where the model is its own tokenizer or draft, and where no draft is named."""
    bake(tmp_path / "model", tokenizer_config__json="{}")
    assert locate(load(asked), tmp_path).is_local


def test_a_draft_is_looked_for_in_the_same_places(tmp_path, nothing_baked):
    """With the revision that SPECULATIVE_CONFIG has."""
    folder = checkpoint(tmp_path / "m")
    draft = cache(tmp_path, "models--org--draft", ref="v1")
    config = json.dumps({"model": "org/draft", "revision": "v1"})
    environ = {"MODEL_NAME": str(folder), "BASE_PATH": str(tmp_path), "SPECULATIVE_CONFIG": config}
    assert locate(load(environ), nothing_baked).draft == draft
    with pytest.raises(ModelUnavailable, match=r"^SPECULATIVE_CONFIG='/none' looks like a local"):
        locate(load(environ | {"SPECULATIVE_CONFIG": '{"model": "/none"}'}), nothing_baked)


def test_another_revision_than_the_baked_one_needs_no_name(tmp_path):
    """The repository is still the image's."""
    bake(tmp_path / "baked/model")
    other = cache(tmp_path, "models--org--name", ref="v2")
    environ = {"MODEL_REVISION": "v2", "BASE_PATH": str(tmp_path)}
    assert locate(load(environ), tmp_path / "baked").path == other


def test_a_baked_tokenizer_is_not_given_to_another_model(tmp_path):
    """It belongs to the weights that were baked with it."""
    bake(tmp_path / "baked/model")
    bake(tmp_path / "baked/tokenizer", "org/tokenizer")
    folder = checkpoint(tmp_path / "m")
    assert locate(load({"MODEL_NAME": str(folder)}), tmp_path / "baked").tokenizer is None


INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})


def cache(volume: Path, folder: str, ref: str | None, **files: str) -> Path:
    """A snapshot in a hub cache on the volume."""
    repository = volume / "huggingface-cache/hub" / folder
    snapshot = repository / "snapshots" / COMMIT
    checkpoint(snapshot, {"quant_method": "awq"}, model__safetensors="w", **files)
    if ref:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize(
    ("folder", "ref", "revision"),
    [
        ("models--Org--Name", "main", None),
        ("models--org--name", "main", None),
        ("models--Org--Name", None, None),
        ("models--Org--Name", None, COMMIT),
        ("models--Org--Name", "v1", "v1"),
    ],
    ids=["as named", "lower case", "no ref", "commit", "branch"],
)
def test_a_cached_model_is_taken_without_asking_the_hub(
    tmp_path, nothing_baked, folder, ref, revision
):
    """The platform's cache and the volume's have one layout; the name stays the repository's."""
    snapshot = cache(tmp_path, folder, ref)
    environ = {"MODEL_NAME": "Org/Name", "BASE_PATH": str(tmp_path)}
    model = locate(
        load(environ | ({"MODEL_REVISION": revision} if revision else {})), nothing_baked
    )
    assert (model.path, model.name, model.is_local) == (snapshot, "Org/Name", True)


def test_the_order_of_the_places(tmp_path, nothing_baked, monkeypatch):
    """The platform's cache, then a local folder, then the volume's cache."""
    (tmp_path / "platform").mkdir()
    on_volume = cache(tmp_path / "volume", "models--org--name", "main")
    local = checkpoint(tmp_path / "work/org/name")
    on_platform = cache(tmp_path / "platform", "models--org--name", "main")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(
        "handler.model.sources.PLATFORM_CACHE", tmp_path / "platform/huggingface-cache/hub"
    )
    settings = load({"MODEL_NAME": "org/name", "BASE_PATH": str(tmp_path / "volume")})
    found = []
    for place in (on_platform, local, on_volume):
        found.append(locate(settings, nothing_baked).path)
        shutil.rmtree(place)
    assert found == [on_platform, local, on_volume]


@pytest.mark.parametrize(
    "lacking",
    [
        lambda snapshot: (snapshot / "model.safetensors").unlink(),
        lambda snapshot: (snapshot / "model.safetensors.index.json").write_text(INDEX),
        lambda snapshot: listed(snapshot, "tokenizer.json"),
        lambda snapshot: (snapshot / "model.safetensors.index.json").write_text("{"),
    ],
    ids=["no weights", "a shard", "a listed file", "a broken index"],
)
def test_half_a_cached_model_is_not_taken(tmp_path, lacking):
    """Another worker may be in the middle of fetching it: the hub is asked, and is not there."""
    lacking(cache(tmp_path, "models--org--public", "main"))
    assert fetch(tmp_path, "http://127.0.0.1:9", MODEL_NAME="org/public") == (
        "ModelUnavailable org/public: the hub at http://127.0.0.1:9 cannot be reached."
    )


def listed(snapshot: Path, name: str) -> None:
    """Leave the list that huggingface-hub keeps of what it fetches."""
    trees = snapshot.parents[1] / "trees"
    trees.mkdir()
    (trees / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": {name: {}}}))


def test_the_name_of_a_folder_from_a_cache_is_the_repositorys(tmp_path, nothing_baked):
    """Whatever path somebody gives."""
    snapshot = cache(tmp_path, "models--Qwen--Qwen2.5-7B-Instruct-AWQ", "main")
    model = locate(load({"MODEL_NAME": str(snapshot)}), nothing_baked)
    assert (model.name, model.source) == ("Qwen/Qwen2.5-7B-Instruct-AWQ", "a local folder")
    (snapshot / "manifest.json").write_text('{"manifest": "of something else"}')
    assert locate(load({"MODEL_NAME": str(snapshot)}), nothing_baked).name == model.name
    fetched = bake(tmp_path / "fetched")
    assert locate(load({"MODEL_NAME": str(fetched)}), nothing_baked).name == "org/name"


def test_no_model_name_says_what_to_give(nothing_baked):
    """The first mistake that a new user makes."""
    with pytest.raises(InvalidSetting) as caught:
        locate(load({}), nothing_baked)
    assert str(caught.value) == (
        "MODEL_NAME is not set: give a hub repository such as Qwen/Qwen2.5-7B-Instruct-AWQ "
        "or a local folder."
    )


@pytest.mark.parametrize("name", ["/no/such/folder", "./models/none", "~nobody-here/x"])
def test_a_folder_without_a_checkpoint_is_not_asked_of_the_hub(name, nothing_baked):
    """A path is a path."""
    with pytest.raises(ModelUnavailable, match=r"but there is no config\.json in it"):
        locate(load({"MODEL_NAME": name}), nothing_baked)


def test_a_name_that_cannot_be_one(nothing_baked):
    """Neither a folder nor org/name."""
    with pytest.raises(InvalidSetting) as caught:
        locate(load({"MODEL_NAME": "a/b/c"}), nothing_baked)
    assert str(caught.value) == ("MODEL_NAME='a/b/c' is no repository's name (org/name).")


FP8_GROUP = {"group_0": {"weights": {"type": "float", "num_bits": 8}}}
CONTAINER = {"quant_method": "compressed-tensors"}
INT4_WEIGHTS = {"weights": {"type": "int", "num_bits": 4}}
INT4_GROUP = {"group_0": INT4_WEIGHTS}


@pytest.mark.parametrize(
    ("quantization", "method"),
    [
        (None, None),
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "fp8"}, "fp8"),
        (
            {"quant_method": "compressed-tensors", "config_groups": FP8_GROUP},
            "compressed-tensors-fp8",
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": INT4_GROUP},
            "compressed-tensors-int4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": FP8_GROUP | {"1": INT4_WEIGHTS},
            },
            "compressed-tensors",
        ),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt-fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_NVFP4_FP8"}, "modelopt"),
        ({"quant_method": "AWQ"}, "awq"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"0": None}},
            "compressed-tensors",
        ),
        ({"quant_algo": "FP8"}, "modelopt-fp8"),
        ({"quant_method": "gptq"}, "gptq"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
    ],
)
def test_the_method_is_read_from_the_checkpoint(tmp_path, quantization, method):
    """Containers are looked into."""
    assert quantization_of(checkpoint(tmp_path, quantization)) == method


@pytest.mark.parametrize(
    ("config", "files", "method"),
    [
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, {}, "awq"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, {}, "compressed-tensors"),
        (
            {},
            {"hf_quant_config.json": {"quantization": {"quant_algo": "FP8"}}},
            "modelopt-fp8",
        ),
    ],
    ids=["text_config", "compression_config", "ModelOpt's file"],
)
def test_the_method_is_found_in_all_places_where_tools_leave_it(tmp_path, config, files, method):
    """The same places in which the engines look."""
    for name, content in {"config.json": config, **files}.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert quantization_of(tmp_path) == method


@pytest.mark.parametrize(
    ("wanted", "quantization", "fits"),
    [
        ("auto", {"quant_method": "awq"}, True),
        ("awq", {"quant_method": "awq"}, True),
        ("fp8", {"quant_method": "compressed-tensors", "config_groups": FP8_GROUP}, True),
        ("none", None, True),
        ("AWQ", {"quant_method": "awq"}, True),
        ("awq", {"quant_method": "compressed-tensors", "config_groups": INT4_GROUP}, True),
        ("aw", {"quant_method": "awq"}, False),
        ("fp8", None, True),  # the engine quantizes it while it loads
        ("fp8", {"quant_method": "awq"}, False),
        ("none", {"quant_method": "awq"}, False),
        ("awq", {"quant_method": "gptq"}, False),
    ],
)
def test_quantization_must_not_contradict_the_checkpoint(
    tmp_path, nothing_baked, wanted, quantization, fits
):
    """It is a check, and for unquantized checkpoints a wish."""
    folder = checkpoint(tmp_path / "m", quantization)
    settings = load({"MODEL_NAME": str(folder), "QUANTIZATION": wanted})
    if fits:
        assert locate(settings, nothing_baked).name == "m"
        return
    with pytest.raises(InvalidSetting) as caught:
        locate(settings, nothing_baked)
    assert str(caught.value) == (
        f"QUANTIZATION={wanted.lower()!r} contradicts the checkpoint: m is quantized as "
        f"{quantization['quant_method']!r}. Leave QUANTIZATION unset, or choose another model."
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "m: config.json is no JSON object."),
        ("{", "m: config.json cannot be read."),
        ("[" * 200_000, "m: config.json cannot be read."),
        ('{"quantization_config": "x"}', "m: quantization_config in config.json is no object."),
    ],
)
def test_an_odd_configuration_is_said(tmp_path, nothing_baked, config, message):
    """Not with a traceback."""
    folder = checkpoint(tmp_path / "m")
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelUnavailable) as caught:
        locate(load({"MODEL_NAME": str(folder)}), nothing_baked)
    assert str(caught.value) == message


def fetch(tmp_path, hub_url, **environ):
    """Locate a model in a process of its own: huggingface-hub reads HF_ENDPOINT on import."""
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from handler.errors import WorkerError\n"
        "from handler.model.resolve import locate\n"
        "from handler.environ import load\n"
        "try:\n"
        "    model = locate(load(os.environ), Path('nothing-baked'))\n"
        "    print(model.name, model.path)\n"
        "except WorkerError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    environment = clean_environment(
        **{"HF_ENDPOINT": hub_url, "BASE_PATH": str(tmp_path), **environ}
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    checkpoint(folder, {"quant_method": "awq"}, model__safetensors="weights", model__bin="pickle")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "original").mkdir()
    (folder / "original" / "weights.safetensors").write_text("again")
    with running_hub(
        public=Repository(folder),
        gated=Repository(folder, gated=True),
        private=Repository(folder, private=True),
    ) as server:
        yield server


def test_a_model_from_the_hub_lands_on_the_volume(tmp_path, hub):
    """Only what the engine loads, in the place where Runpod keeps cached models."""
    name, _, path = fetch(tmp_path, hub.url, MODEL_NAME="org/public").partition(" ")
    assert name == "org/public"
    cached = tmp_path / "huggingface-cache/hub/models--org--public"
    assert Path(path) == cached / "snapshots" / COMMIT
    assert sorted(file.name for file in Path(path).rglob("*") if file.is_file()) == [
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
    ]
    asked = len(hub.asked)
    assert fetch(tmp_path, hub.url, MODEL_NAME="org/public") == f"{name} {path}"
    assert len(hub.asked) == asked  # the second worker finds it there


def test_sigterm_while_the_weights_come_leaves_no_half_of_a_file(tmp_path):
    """The platform may change its mind: the worker does not finish the file, nor keep its half."""
    folder = checkpoint(tmp_path / "repository", model__safetensors="weights" * 3_000_000)
    volume = tmp_path / "volume"
    volume.mkdir()
    fault = Fault("model.safetensors", after_bytes=15_000_000, pause_seconds=300)
    with running_hub(public=Repository(folder)) as hub:
        hub.faults.append(fault)
        environ = {"MODEL_NAME": "org/public", "BASE_PATH": str(volume), "HF_ENDPOINT": hub.url}
        worker = subprocess.Popen(
            [sys.executable, "-m", "handler"],
            cwd=ROOT,
            env=clean_environment(**environ),
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while fault.times or not list(volume.rglob("*.incomplete")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker.terminate()
        assert worker.wait(20) == 128 + signal.SIGTERM
    assert list(volume.rglob("*.incomplete")) == []


def test_a_half_is_removed_whether_it_is_open_or_just_closed(tmp_path):
    """huggingface-hub closes a file before it renames it; the end may come in between."""
    halves = Halves()
    files = [tmp_path / "open.incomplete", tmp_path / "closed.incomplete", tmp_path / "whole"]
    for file in files:
        halves.note("open", (str(file), "wb", 0))
        file.write_text("half")
    with files[0].open("a"):
        halves.remove()
    assert list(tmp_path.iterdir()) == [tmp_path / "whole"]


def test_what_a_killed_worker_left_half_written_is_removed(tmp_path, hub):
    """After hours; until then it may be another worker's."""
    blobs = tmp_path / "huggingface-cache/hub/models--org--public/blobs"
    blobs.mkdir(parents=True)
    for name in ("old", "new"):
        (blobs / f"{name}.0.incomplete").write_text("half")
    os.utime(blobs / "old.0.incomplete", (0, 0))
    fetch(tmp_path, hub.url, MODEL_NAME="org/public")
    assert [path.name for path in blobs.glob("*.incomplete")] == ["new.0.incomplete"]


def test_a_volume_that_cannot_be_written_is_no_obstacle(tmp_path, hub):
    """What is fetched stays in the container then. /proc can be written by nobody."""
    environ = {"BASE_PATH": "/proc", "HF_HUB_CACHE": str(tmp_path / "own")}
    found = fetch(tmp_path, hub.url, MODEL_NAME="org/public", **environ)
    assert found == f"org/public {tmp_path}/own/models--org--public/snapshots/{COMMIT}"
    asked = len(hub.asked)
    assert fetch(tmp_path, hub.url, MODEL_NAME="org/public", **environ) == found
    assert len(hub.asked) == asked  # a restart in the same container finds it there


def test_a_tokenizer_from_the_hub_comes_without_weights(tmp_path, hub):
    """TOKENIZER_NAME names a repository whose weights nobody needs."""
    folder = checkpoint(tmp_path / "m")
    environ = {"MODEL_NAME": str(folder), "TOKENIZER_NAME": "org/public"}
    assert fetch(tmp_path, hub.url, **environ) == f"m {folder}"
    snapshot = tmp_path / "huggingface-cache/hub/models--org--public/snapshots" / COMMIT
    assert sorted(file.name for file in snapshot.iterdir()) == [
        "config.json",
        "tokenizer_config.json",
    ]


def test_two_workers_fetch_to_one_volume_at_once(tmp_path):
    """Each gets the whole model, and no byte of it is wrong."""
    folder = checkpoint(tmp_path / "repository", model__safetensors="weights" * 3_000_000)
    with running_hub(public=Repository(folder)) as hub, ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda _: fetch(tmp_path, hub.url, MODEL_NAME="org/public"), range(2))
        [path] = {answer.partition(" ")[2] for answer in answers}
    for file in folder.iterdir():
        assert (Path(path) / file.name).read_bytes() == file.read_bytes()
    assert list(Path(path).parents[1].rglob("*.incomplete")) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"model__safetensors__index__json": INDEX, "model-1__safetensors": "w"},
            "org/odd has no model-2.safetensors, which its index names.",
        ),
        (
            {"model__safetensors__index__json": "{", "model__safetensors": "w"},
            "org/odd: model.safetensors.index.json cannot be read.",
        ),
        (
            {"pytorch_model__bin": "w", "optimizer__pt": "w"},
            "org/odd has its weights only as pickle (pytorch_model.bin), and reading those can run "
            "any code: choose a repository with safetensors.",
        ),
        ({}, "org/odd has no weights."),
    ],
    ids=["a lost shard", "a broken index", "pickle", "nothing"],
)
def test_a_repository_without_its_weights_is_said(tmp_path, files, message):
    """Before anything large is fetched, and not by the engine's child process."""
    folder = checkpoint(tmp_path / "repository", **files)
    (tmp_path / "volume").mkdir()
    with running_hub(odd=Repository(folder)) as hub:
        said = fetch(tmp_path / "volume", hub.url, MODEL_NAME="org/odd")
    assert said == f"ModelUnavailable {message}"


def test_a_name_too_long_for_a_file(nothing_baked):
    """The file system's own words, and not the whole name."""
    with pytest.raises(InvalidSetting) as caught:
        locate(load({"MODEL_NAME": "x" * 300}), nothing_baked)
    assert str(caught.value) == f"MODEL_NAME='{'x' * 100}…': File name too long."


def test_the_token_opens_a_gated_repository(tmp_path, hub):
    """HF_TOKEN goes to the hub and nowhere else."""
    found = fetch(tmp_path, hub.url, MODEL_NAME="org/gated", HF_TOKEN=TOKEN)
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
            "HF_TOKEN does not open it.",
        ),
        (
            {"MODEL_NAME": "org/private"},
            "ModelUnavailable org/private: no such repository on the hub, or it is private and "
            "HF_TOKEN does not open it.",
        ),
        (
            {"MODEL_NAME": "org/public", "HF_TOKEN": "hf_wrong"},
            "ModelUnavailable org/public: the hub answered 401: HF_TOKEN is not valid.",
        ),
        (
            {"MODEL_NAME": "org/public", "HF_HUB_OFFLINE": "1"},
            "ModelUnavailable org/public: it is not in the cache, and HF_HUB_OFFLINE keeps the hub "
            "from being asked.",
        ),
        (
            {"MODEL_NAME": "org/public", "MODEL_REVISION": "v9"},
            "ModelUnavailable org/public has no revision 'v9' (MODEL_REVISION).",
        ),
    ],
    ids=["gated", "missing", "private", "token", "offline", "revision"],
)
def test_what_the_hub_refuses_is_said_in_one_sentence(tmp_path, hub, environ, message):
    """Each with what the user can do."""
    assert fetch(tmp_path, hub.url, **environ) == message


def test_no_hub_at_all(tmp_path):
    """Nothing answers on this port."""
    assert fetch(tmp_path, "http://127.0.0.1:9", MODEL_NAME="org/public") == (
        "ModelUnavailable org/public: the hub at http://127.0.0.1:9 cannot be reached."
    )
