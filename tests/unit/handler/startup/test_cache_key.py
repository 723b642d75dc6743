"""What compiled code is valid for."""

import importlib.metadata
import platform

import pytest

from handler.startup import cache_key as module
from handler.startup.cache_key import cache_key
from handler.startup.gpus import Gpu

L4 = Gpu("NVIDIA L4", (8, 9), 24 * 10**9, "GPU-1")
H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 80 * 10**9, "GPU-2")


@pytest.fixture
def machine(monkeypatch):
    """Set a machine's GPUs, its driver and the packages that are installed."""

    def machine(gpus=(L4,), driver="580.95.05", **packages):
        versions = {"vllm": "0.32.0", "sglang": "0.5.23", "torch": "2.13.0"} | packages

        def version(name):
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(module, "visible_gpus", lambda environ: list(gpus))
        monkeypatch.setattr(module, "driver_version", lambda: driver)
        monkeypatch.setattr(importlib.metadata, "version", version)

    machine()
    return machine


def test_the_key_names_gpu_driver_and_engine(machine):
    text, _, digest = cache_key("vllm", {}).rpartition("-")
    assert text == "NVIDIA-L4-sm89-driver580.95.05-vllm0.32.0"
    assert len(digest) == 8


def test_one_machine_has_one_key_for_each_engine(machine):
    assert cache_key("vllm", {}) == cache_key("vllm", {"RUNPOD_POD_ID": "another"})
    assert cache_key("vllm", {}) != cache_key("sglang", {})


def test_several_gpus_of_a_kind_have_the_key_of_one(machine):
    one = cache_key("vllm", {})
    machine(gpus=(L4, L4))
    assert cache_key("vllm", {}) == one


@pytest.mark.parametrize(
    "change",
    [
        {"gpus": (H100,)},
        {"gpus": (L4, H100)},
        {"driver": "575.57.08"},
        {"vllm": "0.33.0"},
        {"torch": "2.13.0+cu126"},
        {"triton": "3.9.0"},
    ],
    ids=["GPU", "another GPU too", "driver", "engine", "CUDA of torch", "compiler"],
)
def test_another_machine_or_build_has_another_key(machine, change):
    before = cache_key("vllm", {})
    machine(**change)
    assert cache_key("vllm", {}) != before


def test_without_a_gpu_the_cpu_and_its_instructions_count(machine, tmp_path):
    machine(gpus=())
    info = tmp_path / "cpuinfo"
    keys = []
    for flags in ("avx2", "avx2 avx512f"):
        info.write_text(f"model name\t: AMD EPYC 9B14\nflags\t\t: {flags}\n\nmodel name\t: other\n")
        keys.append(cache_key("vllm", {}, info))
    assert keys[0] != keys[1]
    assert keys[0].startswith("cpu-AMD-EPYC-9B14-vllm0.32.0-")


def test_a_cpu_without_a_name_has_the_architectures(machine, tmp_path):
    machine(gpus=())
    key = cache_key("vllm", {}, tmp_path / "absent")
    assert key.startswith(f"cpu-{platform.machine().replace('_', '-')}-vllm0.32.0-")
