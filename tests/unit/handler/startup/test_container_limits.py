"""The container's memory and cores, by the limits of cgroup v1 and v2."""

import os
from types import SimpleNamespace

import psutil
import pytest

from handler.startup.container_limits import (
    available_cores,
    available_memory_bytes,
    memory_limit_bytes,
)

GIB = 2**30


@pytest.fixture
def machine(monkeypatch):
    """A machine of 64 cores and 1 TiB, half of it in use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    memory = SimpleNamespace(total=1024 * GIB, available=512 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


@pytest.fixture
def limits(tmp_path, machine):
    """Write files of cgroups; return the arguments of the functions."""

    def write(files, membership=""):
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "membership").write_text(membership)
        return tmp_path / "cgroup", tmp_path / "membership"

    return write


V2 = {"memory.max": str(62 * GIB), "cpu.max": "1550000 100000"}
V1 = {
    "memory/memory.limit_in_bytes": str(62 * GIB),
    "cpu/cpu.cfs_quota_us": "1550000",
    "cpu/cpu.cfs_period_us": "100000",
}
V1_MEMBERSHIP = "4:memory:/pod/one\n1:cpu,cpuacct:/pod\n0::/\n"
CASES = {
    "v2": (V2, "0::/\n"),
    "v2, the parent's limit": (
        {**V2, "pod/one/memory.max": "max", "pod/one/cpu.max": "max 100000"},
        "0::/pod/one\n",
    ),
    "v1": (V1, ""),
    "v1, seen from outside": (V1, V1_MEMBERSHIP),
    "v1, of the process": (
        {
            "memory/memory.limit_in_bytes": str(2**63 - 4096),
            "memory/pod/one/memory.limit_in_bytes": str(62 * GIB),
            "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000",
            "cpu/pod/cpu.cfs_quota_us": "1550000",
            "cpu/pod/cpu.cfs_period_us": "100000",
        },
        V1_MEMBERSHIP,
    ),
}


@pytest.mark.parametrize(("files", "membership"), CASES.values(), ids=CASES)
def test_the_containers_limits_are_found(limits, files, membership):
    arguments = limits(files, membership)
    assert memory_limit_bytes(*arguments) == 62 * GIB
    assert available_cores(*arguments) == 16


@pytest.mark.parametrize(
    "files", [{}, {"memory.max": "max\n", "cpu.max": "max 100000\n"}], ids=["no files", "no limit"]
)
def test_without_a_limit_the_machine_counts(limits, files):
    arguments = limits(files)
    assert memory_limit_bytes(*arguments) == 1024 * GIB
    assert available_cores(*arguments) == 64
    assert available_memory_bytes(*arguments) == 512 * GIB


USED_OF_V2 = {
    "memory.current": str(60 * GIB),
    "memory.stat": f"anon {20 * GIB}\ninactive_file {30 * GIB}\n",
}
USED_OF_V1 = {
    "memory.usage_in_bytes": str(60 * GIB),
    "memory.stat": f"inactive_file 1\ntotal_inactive_file {30 * GIB}\n",  # of the cgroups below too
}
USED = {
    "v2": (V2 | USED_OF_V2, "0::/\n"),
    "v2, the parent's": ({**V2, **USED_OF_V2, "pod/one/memory.max": "max"}, "0::/pod/one\n"),
    "v1": (V1 | {f"memory/{name}": text for name, text in USED_OF_V1.items()}, ""),
    "v1, of the process": (
        {
            "memory/memory.limit_in_bytes": str(2**63 - 4096),
            "memory/memory.usage_in_bytes": str(500 * GIB),
            "memory/pod/one/memory.limit_in_bytes": str(62 * GIB),
            **{f"memory/pod/one/{name}": text for name, text in USED_OF_V1.items()},
        },
        V1_MEMBERSHIP,
    ),
}


@pytest.mark.parametrize(("files", "membership"), USED.values(), ids=USED)
def test_pages_of_files_in_the_container_count_as_available(limits, files, membership):
    """The kernel drops them when memory is needed."""
    assert available_memory_bytes(*limits(files, membership)) == 32 * GIB
