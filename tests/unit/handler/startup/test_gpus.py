"""GPUs and driver as NVML shows them, by the real pynvml."""

import json
import sys

import pytest

from handler.startup import gpus
from simulated_gpu.gpu import GPUS

SHOW = """
import dataclasses, json, os
from handler.startup.gpus import driver_version, visible_gpus
found = [dataclasses.asdict(gpu) for gpu in visible_gpus(os.environ)]
print(json.dumps([driver_version(), found]))
"""
UUID = "-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("kind", "gpu"),
    [
        ("l4", ["NVIDIA L4", [8, 9], 23034 << 20, f"GPU-00000000{UUID}"]),
        ("b200", ["NVIDIA B200", [10, 0], 183359 << 20, f"GPU-00000000{UUID}"]),
        ("h100-mig", ["NVIDIA H100 80GB HBM3", [9, 0], 24320 << 20, f"MIG-00000000{UUID}"]),
    ],
)
def test_a_gpu_has_a_name_a_capability_and_its_own_memory(run_beside_gpus, kind, gpu):
    """The memory of a MIG slice, not of the GPU that it is a part of."""
    version, found = json.loads(run_beside_gpus(SHOW, GPUS[kind]))
    assert version == "580.95.05"
    assert [list(each.values()) for each in found] == [gpu]


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, ["GPU-00000000", "GPU-00000001", "GPU-00000002", "GPU-00000003"]),
        ("", []),
        ("-1", []),
        ("2", ["GPU-00000002"]),
        ("3, 1", ["GPU-00000003", "GPU-00000001"]),
        ("1gpu", ["GPU-00000001"]),
        ("0,-1,1", ["GPU-00000000"]),
        ("1,7,2", ["GPU-00000001"]),
        ("1,1", []),
        (f"GPU-00000002{UUID},GPU-00000001", ["GPU-00000002", "GPU-00000001"]),
        ("GPU-0", []),
        ("MIG-00000000", []),
    ],
    ids=[
        "unset",
        "empty",
        "none",
        "one",
        "two",
        "text after an index",
        "ends at a negative index",
        "ends at an index without GPU",
        "named twice",
        "UUIDs",
        "ambiguous UUID",
        "a slice that is not there",
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(run_beside_gpus, visible, seen):
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    _, found = json.loads(run_beside_gpus(SHOW, GPUS["l4"], 4, **environ))
    assert [each["uuid"].removesuffix(UUID) for each in found] == seen


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, "MIG-00000000"),
        ("1", "MIG-00000001"),
        ("0,1", "MIG-00000000"),
        (f"MIG-00000001{UUID}", "MIG-00000001"),
        ("MIG-00000001,MIG-00000000", "MIG-00000001"),
        (f"GPU-00000001{UUID}", "MIG-00000001"),
    ],
)
def test_a_process_has_one_mig_slice(run_beside_gpus, visible, seen):
    """The first that it may use, however many there are."""
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    _, found = json.loads(run_beside_gpus(SHOW, GPUS["h100-mig"], 2, **environ))
    assert [each["uuid"].removesuffix(UUID) for each in found] == [seen]


def test_without_a_driver_there_are_no_gpus(run_beside_gpus, tmp_path):
    assert json.loads(run_beside_gpus(SHOW, folder=tmp_path)) == [None, []]


def test_without_nvidia_ml_py_there_are_no_gpus(monkeypatch):
    """As in the CPU image."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert (gpus.visible_gpus({}), gpus.driver_version()) == ([], None)
    with pytest.raises(gpus.NoDriver, match=r"^nvidia-ml-py is not installed$"):
        gpus.driver()


def test_a_slice_hides_the_whole_gpus_beside_it():
    """CUDA enumerates nothing else beside it."""
    whole = gpus.Gpu("NVIDIA H100", (9, 0), 80 << 30, "GPU-a")
    part = gpus.Gpu("NVIDIA H100 MIG 3g.40gb", (9, 0), 40 << 30, "MIG-b")
    devices = [
        gpus.Device("GPU-a", [whole]),
        gpus.Device("GPU-b", [part]),
        gpus.Device("GPU-c", []),
    ]
    assert gpus.chosen_gpus(devices, None) == [part]
    assert gpus.chosen_gpus(devices, "0,1") == [part]
    assert gpus.chosen_gpus(devices, "0,2,1") == [whole]
    assert gpus.chosen_gpus(devices, "2") == []
