"""Where vLLM and its packages keep compiled code, and what its key of compiled graphs has."""

import sysconfig
from pathlib import Path

import pytest

from handler.engine.vllm import platform
from handler.startup.build_jobs import JOB_VARIABLES
from handler.startup.compile_cache import CompileCache
from tests.support.cache_defaults import SHARED, VLLM, unknown_defaults, unsaved_folders

# What Runpod and Docker set to another value for each worker.
WORKER_VARIABLES = ("RUNPOD_POD_ID", "RUNPOD_POD_HOSTNAME", "RUNPOD_ENDPOINT_ID", "HOSTNAME")

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported


def test_what_every_package_writes_is_saved(tmp_path):
    assert unsaved_folders(tmp_path, {**SHARED, **VLLM}) == []


def test_no_installed_file_has_a_folder_that_is_not_known():
    assert unknown_defaults(Path(sysconfig.get_path("purelib"))) == []


def test_two_workers_with_different_machines_have_one_key_of_compiled_graphs(tmp_path, monkeypatch):
    """It has the variables that vLLM knows, except those that it ignores."""
    from vllm.envs import compile_factors

    factors = []
    for number in ("1", "2"):
        identity = dict.fromkeys(WORKER_VARIABLES, f"worker-{number}")
        caches = CompileCache(
            tmp_path / number,
            root_is_required=True,
            key=f"key-{number}",
            volume=None,
            environ=identity,
            max_bytes=0,
        )
        exported = {
            **identity,
            **caches.environ,
            **dict.fromkeys(JOB_VARIABLES, number),
            **platform.environment("ERROR"),
            "HF_HUB_OFFLINE": "1",
            platform.STARTUP_PLAN: "1",
        }
        with monkeypatch.context() as environ:
            for name, value in exported.items():
                environ.setenv(name, value)
            factors.append(compile_factors())
    assert factors[0] == factors[1]


@pytest.mark.parametrize("variable", ["NVCC_THREADS"])
def test_a_variable_that_the_worker_leaves_alone_is_part_of_the_key(variable, monkeypatch):
    from vllm.envs import compile_factors

    before = compile_factors()
    monkeypatch.setenv(variable, "7")
    assert compile_factors() != before
    assert variable not in JOB_VARIABLES
