"""The memory and the cores that this process may use, by its container's cgroups, v1 or v2."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def memory_limit_bytes(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the machine's memory, or the container's limit if that is lower."""
    limits = [int(psutil.virtual_memory().total)]
    for folder in _folders("memory", cgroups, membership):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += _numbers(folder / name)
    return min(limits)


def available_memory_bytes(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the available memory of the machine, or of the container if it has less.

    The kernel drops pages of files that were not used lately, so they count as available.
    """
    available = [int(psutil.virtual_memory().available)]
    for folder in _folders("memory", cgroups, membership):
        for limit_name, used_name, dropped_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            for limit, used in zip(
                _numbers(folder / limit_name), _numbers(folder / used_name), strict=False
            ):
                available.append(limit - used + _statistic(folder / "memory.stat", dropped_name))
    return max(0, min(available))


def available_cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the cores that this process may use, a part of one counted as one."""
    cores = [len(os.sched_getaffinity(0))]
    for folder in _folders("cpu", cgroups, membership):
        quota = _numbers(folder / "cpu.max")  # of v2: quota and period
        if not quota:
            quota = _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0] > 0:  # v1 says -1, v2 says max without a limit
            cores.append(-(-quota[0] // quota[1]))
    return max(1, min(cores))


def _folders(controller: str, cgroups: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders whose limits hold for this process: its cgroup and those above it.

    In a container the mount's root is usually its cgroup; the paths of `membership` then lead
    nowhere or to the same one. cgroup v2 has one tree for all controllers, v1 one for each.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    roots = {cgroups: "", cgroups / controller: ""}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            roots[cgroups] = path
        elif controller in controllers.split(","):
            roots[cgroups / controller] = path
    for root, path in roots.items():
        folder = root / path.strip("/")
        yield folder
        while folder != root:
            folder = folder.parent
            yield folder


def _numbers(path: Path) -> list[int]:
    """Return the numbers in a file; an empty list if it is missing or says `max`."""
    try:
        return [int(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []


def _statistic(path: Path, name: str) -> int:
    """Return one number of a file of names and numbers; 0 if it is missing."""
    try:
        return int(dict(line.split() for line in path.read_text().splitlines()).get(name, 0))
    except (OSError, ValueError):
        return 0
