"""Files that are not what their names say are named before an engine is imported."""

import json

import pytest

from handler.errors import ModelUnavailable
from handler.model.damage import check_files, damage
from handler.model.reference import HubReference
from handler.model.sources import VOLUME_CACHE, ModelSources
from tests.support.model_folders import INDEX, baked_folder, cached_snapshot, safetensors

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 4976698672\n"
)
IS_POINTER = (
    "is a Git LFS pointer of 135 bytes, not the file: run `git lfs pull` where it was cloned, or "
    "download it from the hub"
)
WHOLE = safetensors("weights")
SENTENCEPIECE = b"\n\x05\n\x03abc" * 20 + b"\x12\x02\x08\x01"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.safetensors", POINTER, IS_POINTER),
        ("tokenizer.json", POINTER, IS_POINTER),
        ("tokenizer.model", POINTER, IS_POINTER),
        ("tekken.json", POINTER, IS_POINTER),
        ("pytorch_model.bin", POINTER, IS_POINTER),
        ("merges.txt", POINTER, IS_POINTER),
        ("model.safetensors", WHOLE, None),
        ("model.safetensors", WHOLE[:-1], "was cut short: it has 74 of 75 bytes"),
        ("model.safetensors", WHOLE + b"x", "has 76 bytes, but its header describes 75"),
        (
            "model.safetensors",
            WHOLE[:20],
            "is not a safetensors file, or was cut short: it has 20 bytes",
        ),
        (
            "model.safetensors",
            "<!DOCTYPE html>",
            "is not a safetensors file, or was cut short: it has 15 bytes",
        ),
        ("model.safetensors", "", "is empty"),
        ("tokenizer.json", '{"model": {}}\n', None),
        ("tokenizer.json", '{"model": {', "is not JSON, or was cut short: it has 11 bytes"),
        ("tokenizer_config.json", "", "is empty"),
        ("trainer_state.json", '{"model": {', None),
        ("tokenizer.model", SENTENCEPIECE, None),
        (
            "tokenizer.model",
            SENTENCEPIECE[:-6],
            "is not a sentencepiece model, or was cut short: it has 138 bytes",
        ),
        ("tokenizer.model", "IQ== 0\nIg== 1\n", None),
        ("tiktoken.model", "IQ== 0\nIg=", "is not a vocabulary, or was cut short: it has 10 bytes"),
        ("x.tiktoken", "IQ== 0\nIg== 1\n", None),
        ("x.tiktoken", "IQ== 0\nIg=", "is not a vocabulary, or was cut short: it has 10 bytes"),
        ("model.bin", b"PK\x03\x04", "is not a PyTorch file, or was cut short: it has 4 bytes"),
        ("model.gguf", b"GGUF\x03", None),
        ("model.gguf", b"html", "is not a GGUF file"),
        ("__init__.py", "", None),
    ],
)
def test_a_file_is_judged_by_its_header_and_its_end(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert damage(path) == reason


def test_a_shard_of_the_index_may_not_be_missing(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(INDEX)
    check_files(tmp_path, "m", "model")  # no weights at all: LOAD_FORMAT=dummy
    (tmp_path / "model-1.safetensors").write_bytes(WHOLE)
    with pytest.raises(ModelUnavailable) as caught:
        check_files(tmp_path, "m", "model")
    assert str(caught.value) == (
        f"m: {tmp_path} has no model-2.safetensors, which is in its index."
    )


def test_weights_that_no_engine_loads_do_not_matter(tmp_path):
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_bytes(WHOLE)
    (tmp_path / "old.safetensors").write_bytes(WHOLE[:9])
    for name in ("pytorch_model.bin", "figure.png", "model.onnx", "model.gguf"):
        (tmp_path / name).write_text(POINTER)
    check_files(tmp_path, "m", "model")
    (tmp_path / "consolidated.safetensors").write_text(POINTER)  # vLLM prefers it
    with pytest.raises(ModelUnavailable):
        check_files(tmp_path, "m", "model")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf"])
def test_weights_in_another_format_matter_where_there_are_no_others(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(ModelUnavailable) as caught:
        check_files(tmp_path, "m", "model")
    assert str(caught.value) == f"m in {tmp_path}: {name} {IS_POINTER}."


def test_a_tokenizer_is_checked_without_the_weights_beside_it(tmp_path):
    (tmp_path / "model.safetensors").write_text(POINTER)
    check_files(tmp_path, "m", "tokenizer")


@pytest.mark.parametrize("place", ["folder", "volume", "image"])
def test_a_damaged_file_stops_the_start_wherever_the_model_is(tmp_path, place):
    sources = ModelSources(tmp_path / "volume", baked=tmp_path / "baked")
    name, pointer = "org/name", {"tokenizer__json": POINTER}
    if place == "image":
        folder = baked_folder(sources.baked / "model", **pointer)
    else:
        cache = sources.base_path / VOLUME_CACHE
        folder = cached_snapshot(cache, "models--org--name", "main", **pointer)
    with pytest.raises(ModelUnavailable) as caught:
        sources.find(HubReference(str(folder) if place == "folder" else name))
    advice = f"; remove {folder.parents[1]} to have it fetched again" if place != "image" else ""
    assert str(caught.value) == f"{name} in {folder}: tokenizer.json {IS_POINTER}{advice}."


def test_a_pointer_in_place_of_the_index_is_named(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(POINTER)
    with pytest.raises(ModelUnavailable) as caught:
        check_files(tmp_path, "m", "model")
    assert str(caught.value) == f"m in {tmp_path}: model.safetensors.index.json {IS_POINTER}."


def test_an_index_of_other_weights_is_an_error(tmp_path):
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    check_files(tmp_path, "m", "model")  # without any weights: LOAD_FORMAT=dummy
    (tmp_path / "model.safetensors").write_bytes(WHOLE)
    with pytest.raises(ModelUnavailable) as caught:
        check_files(tmp_path, "m", "model")
    assert str(caught.value) == (
        f"m: {tmp_path} has no model-1.safetensors, which is in its index."
    )


def test_a_link_whose_file_is_gone_is_named(tmp_path):
    for name in ("README.md", "LICENSE", "pytorch_model.bin", "other.safetensors"):
        (tmp_path / name).symlink_to("gone")
    (tmp_path / "model.safetensors").write_bytes(WHOLE)
    check_files(tmp_path, "m", "model")  # no engine reads these
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("../../blobs/1")
    with pytest.raises(ModelUnavailable) as caught:
        check_files(tmp_path, "m", "model")
    assert str(caught.value) == (
        f"m in {tmp_path}: model.safetensors is a link to ../../blobs/1, which does not exist."
    )
