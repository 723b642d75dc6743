"""The layers of an image: which package is in which, and what is left out."""

import re

import pytest

from builder.image_layers import LAYERS, layer_of, main, pruned_packages, remove, shipped, split
from tests.support.environment import ROOT

REQUIREMENTS = ROOT / "requirements"
PRUNED = (REQUIREMENTS / "pruned.txt").read_text()
LOCKS = {name: (REQUIREMENTS / f"{name}-cuda.txt").read_text() for name in ("vllm", "sglang")}
LOCK = """\
cuda-tile==1.7.0 \\
    --hash=sha256:0
    # via flashinfer-python
nvidia-cublas==13.1.1.3 \\
    --hash=sha256:1 \\
    --hash=sha256:2
nvidia-cutlass-dsl==4.8.0 \\
    --hash=sha256:3
torch==2.13.0 \\
    --hash=sha256:4
vllm==0.32.0 \\
    --hash=sha256:5
"""
WORKER = "runpod==1.12.0 \\\n    --hash=sha256:6\ntorch==2.0 \\\n    --hash=sha256:7\n"


def names(text: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE))


def test_each_package_goes_to_its_layer_with_its_hashes():
    assert split(LOCK, "# why\ncuda-tile  # text\na/*.so\n") == {
        "cuda.txt": "nvidia-cublas==13.1.1.3 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n",
        "torch.txt": "torch==2.13.0 \\\n    --hash=sha256:4\n",
        "dependencies.txt": "nvidia-cutlass-dsl==4.8.0 \\\n    --hash=sha256:3\n",
        "engine.txt": "vllm==0.32.0 \\\n    --hash=sha256:5\n",
        "files.txt": "a/*.so\n",
    }


@pytest.mark.parametrize(
    ("package", "layer"),
    [
        ("nvidia-cuda-nvcc", "cuda"),
        ("nvidia-ml-py", "dependencies"),
        ("triton", "torch"),
        ("flashinfer-python", "dependencies"),
        ("sglang-kernel", "engine"),
        ("sgl-deep-gemm", "engine"),
    ],
)
def test_the_layer_of_a_package(package, layer):
    assert layer_of(package) == layer


@pytest.mark.parametrize("engine", LOCKS)
def test_the_layers_of_a_lock_are_all_of_it(engine):
    layers = split(LOCKS[engine], PRUNED)
    packages = [name for layer in LAYERS for name in names(layers[f"{layer}.txt"])]
    assert sorted(packages) == sorted(names(LOCKS[engine]) - pruned_packages(PRUNED))
    assert engine in names(layers["engine.txt"])


def test_what_is_left_out_is_in_a_lock():
    """A package that is in none any more has to leave the list."""
    assert pruned_packages(PRUNED) - names(LOCKS["vllm"]) - names(LOCKS["sglang"]) == set()


def test_the_shipped_lock_has_the_engines_version_of_a_package():
    text = shipped(LOCK, WORKER, "cuda-tile\n")
    assert re.findall(r"^[\w.-]+==\S+", text, re.MULTILINE) == [
        "nvidia-cublas==13.1.1.3",
        "nvidia-cutlass-dsl==4.8.0",
        "runpod==1.12.0",
        "torch==2.13.0",
        "vllm==0.32.0",
    ]


def test_split_writes_a_file_for_each_layer(tmp_path):
    (tmp_path / "lock.txt").write_text(LOCK)
    (tmp_path / "pruned.txt").write_text("")
    paths = [str(tmp_path / name) for name in ("lock.txt", "pruned.txt", "out")]
    assert main(["split", paths[0], "--pruned", paths[1], "--out", paths[2]]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {*(f"{name}.txt" for name in LAYERS), "files.txt"}


def test_files_folders_and_links_are_removed_by_pattern(tmp_path):
    for name in ("a/lib/x.so.1", "a/lib/y.so.1", "b/c/tests/t.py", "b/d/code.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/tests").symlink_to("../b/d")
    remove(tmp_path, ["a/lib/x.so.*", "b/**/tests", "a/tests", "nothing/*"])
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if not p.is_dir())
    assert files == ["a/lib/y.so.1", "b/d/code.py"]


@pytest.mark.parametrize("engine", LOCKS)
def test_the_locked_engine_is_the_official_images_version(engine):
    recipe = (ROOT / "Dockerfile").read_text()
    [tag] = re.findall(rf"^ARG {engine.upper()}_IMAGE=\S+:v(\S+)$", recipe, re.MULTILINE)
    assert f"\n{engine}=={tag} " in LOCKS[engine]
