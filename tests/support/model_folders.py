"""Folders with the files of a model, without real weights: local, cached and baked ones."""

import json
from pathlib import Path

from handler.model.manifest import Manifest, ManifestFile
from tests.support.hub import COMMIT

INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})


def model_folder(folder: Path, quantization: object = None, **files: str) -> Path:
    """Write config.json and other files; `__` in a name stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"quantization_config": quantization} if quantization else {}
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(safetensors(text) if path.suffix == ".safetensors" else text.encode())
    return folder


def safetensors(text: str) -> bytes:
    """Return a safetensors file with one tensor, which has the text as its bytes."""
    size = len(text)
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"t": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + text.encode()


def baked_folder(folder: Path, repository: str = "org/name", **files: str) -> Path:
    """Write a folder as the image's build leaves it, with a manifest."""
    model_folder(folder, {"quant_method": "awq"}, model__safetensors="weights", **files)
    paths = [path for path in folder.iterdir() if path.name != "manifest.json"]
    Manifest(
        repository=repository,
        revision="v1",
        commit=COMMIT,
        quantization="awq",
        licence="mit",
        files=tuple(
            ManifestFile(path=path.name, bytes=path.stat().st_size, sha256="0" * 64)
            for path in paths
        ),
        total_bytes=sum(path.stat().st_size for path in paths),
        fetched="2026-11-22T14:00:00+00:00",
    ).write(folder)
    return folder


def cached_snapshot(cache: Path, folder: str, ref: str | None, **files: str) -> Path:
    """Write a snapshot into a hub cache, and the ref of a branch."""
    snapshot = cache / folder / "snapshots" / COMMIT
    model_folder(snapshot, {"quant_method": "awq"}, model__safetensors="w", **files)
    if ref:
        (cache / folder / "refs").mkdir(exist_ok=True)
        (cache / folder / "refs" / ref).write_text(COMMIT)
    return snapshot
