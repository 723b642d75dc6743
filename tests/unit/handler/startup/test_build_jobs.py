"""How many compilers run at once, by the limits of cgroup v1 and v2."""

import os
from types import SimpleNamespace

import psutil
import pytest

from handler.startup.build_jobs import (
    available_cores,
    build_jobs_environment,
    memory_limit_bytes,
)

GIB = 2**30


@pytest.fixture
def machine(monkeypatch):
    """A machine of 64 cores and 1 TiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    total = SimpleNamespace(total=1024 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: total)


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


def test_a_compiler_has_6_gib_and_the_engine_8(limits):
    assert build_jobs_environment(*limits(V2)) == {
        "MAX_JOBS": "9",
        "HUMMING_MAX_PARALLEL_BUILD_WORKERS": "9",
        "QUACK_COMPILE_WORKERS": "8",
        "VLLM_TRITON_JIT_WARMUP_NUM_THREADS": "4",
        "TORCHINDUCTOR_COMPILE_THREADS": "16",
    }


def test_one_compiler_runs_however_small_the_container_is(limits):
    files = {"memory.max": str(4 * GIB), "cpu.max": "50000 100000"}
    assert set(build_jobs_environment(*limits(files)).values()) == {"1"}


def test_enough_memory_leaves_the_cores_as_the_bound(limits):
    files = {**V2, "memory.max": str(500 * GIB)}
    assert build_jobs_environment(*limits(files))["MAX_JOBS"] == "16"
