"""The weights are found where they are, and what is missing is said in one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from handler.errors import BadSetting, ModelUnavailable
from handler.model import BAKED, locate, quantization_of
from handler.settings import load
from tests.conftest import ROOT, clean_environment
from tests.hub import COMMIT, TOKEN, running_hub


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


def test_a_mounted_volume_does_not_hide_baked_weights(tmp_path):
    """They lie outside of every folder that a volume is mounted on, and need no MODEL_NAME."""
    baked = checkpoint(tmp_path / "baked", manifest__json='{"repository": "org/name"}')
    volume = tmp_path / "runpod-volume"
    (volume / "huggingface-cache/hub").mkdir(parents=True)
    model = locate(load({"BASE_PATH": str(volume)}), baked)
    assert (model.path, model.name, model.is_local) == (baked, "org/name", True)
    mounts = (Path("/runpod-volume"), Path("/workspace"))
    assert not any(BAKED.is_relative_to(mount) for mount in mounts)


def test_no_model_name_says_what_to_give(nothing_baked):
    """The first mistake that a new user makes."""
    with pytest.raises(BadSetting) as caught:
        locate(load({}), nothing_baked)
    assert str(caught.value) == (
        "MODEL_NAME is not set: give a hub repository such as Qwen/Qwen2.5-7B-Instruct-AWQ "
        "or a local folder."
    )


@pytest.mark.parametrize("name", ["/no/such/folder", "./models/none"])
def test_a_folder_without_a_checkpoint_is_not_asked_of_the_hub(name, nothing_baked):
    """A path is a path."""
    with pytest.raises(ModelUnavailable, match=r"but there is no config\.json in it"):
        locate(load({"MODEL_NAME": name}), nothing_baked)


def test_a_name_that_cannot_be_one(nothing_baked):
    """Neither a folder nor org/name."""
    with pytest.raises(BadSetting) as caught:
        locate(load({"MODEL_NAME": "a/b/c"}), nothing_baked)
    assert str(caught.value) == (
        "MODEL_NAME='a/b/c' is neither a folder here nor a repository's name (org/name)."
    )


FP8_GROUP = {"group_0": {"weights": {"type": "float", "num_bits": 8}}}
INT4_GROUP = {"group_0": {"weights": {"type": "int", "num_bits": 4}}}


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
        ({"quant_method": "compressed-tensors", "config_groups": INT4_GROUP}, "compressed-tensors"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt-fp8"),
    ],
)
def test_the_method_is_read_from_the_checkpoint(tmp_path, quantization, method):
    """Containers are looked into."""
    assert quantization_of(checkpoint(tmp_path, quantization)) == method


@pytest.mark.parametrize(
    ("wanted", "quantization", "fits"),
    [
        ("auto", {"quant_method": "awq"}, True),
        ("awq", {"quant_method": "awq"}, True),
        ("fp8", {"quant_method": "compressed-tensors", "config_groups": FP8_GROUP}, True),
        ("none", None, True),
        ("AWQ", {"quant_method": "awq"}, True),
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
    with pytest.raises(BadSetting) as caught:
        locate(settings, nothing_baked)
    assert str(caught.value) == (
        f"QUANTIZATION={wanted!r} contradicts the checkpoint: m is quantized as "
        f"{quantization['quant_method']!r}. Leave QUANTIZATION unset, or choose another model."
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "m/config.json is no JSON object."),
        ("{", "m/config.json cannot be read."),
        ('{"quantization_config": "x"}', "m/config.json: quantization_config is no object."),
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
        "from handler.model import locate\n"
        "from handler.settings import load\n"
        "try:\n"
        "    model = locate(load(os.environ), Path('nothing-baked'))\n"
        "    print(model.name, model.path)\n"
        "except WorkerError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    environment = clean_environment(
        HF_ENDPOINT=hub_url, HF_HUB_DISABLE_XET="1", BASE_PATH=str(tmp_path), **environ
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
    (folder / "original").mkdir()
    (folder / "original" / "weights.safetensors").write_text("again")
    with running_hub(folder) as server:
        yield server


def test_a_model_from_the_hub_lands_on_the_volume(tmp_path, hub):
    """Only what the engine loads, in the place where Runpod keeps cached models."""
    name, _, path = fetch(tmp_path, hub.url, MODEL_NAME="org/public").partition(" ")
    assert name == "org/public"
    cache = tmp_path / "huggingface-cache/hub/models--org--public"
    assert Path(path) == cache / "snapshots" / COMMIT
    assert sorted(file.name for file in Path(path).rglob("*") if file.is_file()) == [
        "config.json",
        "model.safetensors",
    ]


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
            {"MODEL_NAME": "org/public", "MODEL_REVISION": "v9"},
            "ModelUnavailable org/public has no revision 'v9' (MODEL_REVISION).",
        ),
    ],
    ids=["gated", "missing", "revision"],
)
def test_what_the_hub_refuses_is_said_in_one_sentence(tmp_path, hub, environ, message):
    """Each with what the user can do."""
    assert fetch(tmp_path, hub.url, **environ) == message


def test_no_hub_at_all(tmp_path):
    """Nothing answers on this port."""
    assert fetch(tmp_path, "http://127.0.0.1:9", MODEL_NAME="org/public") == (
        "ModelUnavailable org/public: the hub cannot be reached and the model is not in the cache."
    )
