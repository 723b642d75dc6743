"""The memory check at its edge: weights of one element too many, on GPUs of several sizes."""

import json
import subprocess
from dataclasses import dataclass, field

import pytest

from runpod_local import running_platform
from simulated_gpu.gpu import GPUS
from tests.gpu.conftest import PYTHON
from tests.gpu.test_start import run as run_worker
from tests.support.environment import ROOT, START_SECONDS
from tests.support.failed_starts import assert_lasting
from tests.support.header_checkpoints import header_checkpoint

FRACTION = 0.9
LOADED_SHARE = 0.95  # of the weights that the check counts: an engine may skip draft layers
ELEMENT_BYTES = 2
KV_BYTES_PER_TOKEN = 80 * 2 * 8 * 128 * 2  # of the checkpoint: Llama 70B

CHECK = """
import json, os, sys
from pathlib import Path
from handler.errors import EngineStartFailed
from tests.support.vllm_adapter import checked_vllm_adapter
answers = []
for folder, gpu, environ in json.loads(Path(sys.argv[1]).read_text()):
    os.environ.pop("SIMULATED_GPU_MIG_MIB", None)
    os.environ.update(gpu)  # the simulated NVML reads it at each call
    try:
        checked_vllm_adapter(Path(folder), **environ)
    except EngineStartFailed as error:
        answers.append(str(error))
    else:
        answers.append("")
Path(sys.argv[2]).write_text(json.dumps(answers))
"""


@dataclass(frozen=True)
class Case:
    """A checkpoint beside GPUs; `message` is of one that is just too large.

    Attributes:
        gpu: its kind.
        count: of the GPUs.
        context_tokens: MAX_MODEL_LEN, for which the KV cache needs room; 0 for what fits.
        environ: more settings.
    """

    gpu: str
    message: str
    count: int = 1
    context_tokens: int = 0
    environ: dict[str, str] = field(default_factory=dict)

    def weights_bytes(self) -> int:
        """Return the largest size of the weights that passes."""
        gpu = GPUS[self.gpu]
        memory = (gpu.memory_mib if gpu.mig_mib is None else gpu.mig_mib) << 20
        size = self.environ.get("TENSOR_PARALLEL_SIZE", "1")
        tensor_parallel = self.count if size == "auto" else int(size)
        cache = self.context_tokens * KV_BYTES_PER_TOKEN / tensor_parallel
        room = (memory * FRACTION - cache) * tensor_parallel / LOADED_SHARE
        return int(room // ELEMENT_BYTES) * ELEMENT_BYTES

    def settings(self) -> dict[str, str]:
        length = str(self.context_tokens or -1)
        return {"GPU_MEMORY_UTILIZATION": str(FRACTION), "MAX_MODEL_LEN": length} | self.environ


FEWER_BITS = "or a checkpoint with fewer bits (AWQ, FP8)."
TWO = f"are missing; use 2 such GPUs (TENSOR_PARALLEL_SIZE=2), a larger GPU, {FEWER_BITS}"
FOUR = f"are missing; use 4 such GPUs (TENSOR_PARALLEL_SIZE=4), a larger GPU, {FEWER_BITS}"
H100 = (
    "m has 81.0 GB of weights, 81.0 GB per GPU; the engine may use 77.0 of 85.5 GB per "
    f"NVIDIA H100 80GB HBM3 (GPU_MEMORY_UTILIZATION=0.9): 4.1 GB {TWO}"
)
TWO_H100 = (
    "m has 162.0 GB of weights, 81.0 GB per GPU; the engine may use 77.0 of 85.5 GB per "
    f"NVIDIA H100 80GB HBM3 (GPU_MEMORY_UTILIZATION=0.9): 4.1 GB {FOUR}"
)
CASES = {
    "L4": Case(
        "l4",
        "m has 22.9 GB of weights, 22.9 GB per GPU; the engine may use 21.7 of 24.2 GB per "
        f"NVIDIA L4 (GPU_MEMORY_UTILIZATION=0.9): 1.1 GB {TWO}",
    ),
    "RTX 4090": Case(
        "rtx4090",
        "m has 24.4 GB of weights, 24.4 GB per GPU; the engine may use 23.2 of 25.8 GB per "
        f"NVIDIA GeForce RTX 4090 (GPU_MEMORY_UTILIZATION=0.9): 1.2 GB {TWO}",
    ),
    "A40": Case(
        "a40",
        "m has 45.8 GB of weights, 45.8 GB per GPU; the engine may use 43.5 of 48.3 GB per "
        f"NVIDIA A40 (GPU_MEMORY_UTILIZATION=0.9): 2.3 GB {TWO}",
    ),
    "H100": Case("h100", H100),
    "MIG slice": Case(
        "h100-mig",
        "m has 24.2 GB of weights, 24.2 GB per GPU; the engine may use 23.0 of 25.5 GB per "
        "NVIDIA H100 80GB HBM3 (GPU_MEMORY_UTILIZATION=0.9): 1.2 GB are missing; use a larger MIG "
        "slice or a whole GPU, " + FEWER_BITS,
    ),
    "two H100, one used": Case("h100", H100, count=2),
    "two H100": Case("h100", TWO_H100, count=2, environ={"TENSOR_PARALLEL_SIZE": "2"}),
    "auto": Case("h100", TWO_H100, count=2, environ={"TENSOR_PARALLEL_SIZE": "auto"}),
    "context": Case(
        "h100",
        "m has 69.7 GB of weights, 69.7 GB per GPU; the engine may use 77.0 of 85.5 GB per "
        "NVIDIA H100 80GB HBM3 (GPU_MEMORY_UTILIZATION=0.9), and one request of 32768 tokens needs "
        "10.7 GB of KV cache: 3.5 GB are missing; set MAX_MODEL_LEN to at most 15360, or use a "
        "larger GPU or more GPUs (TENSOR_PARALLEL_SIZE).",
        context_tokens=32768,
    ),
}


@pytest.fixture(scope="module")
def answers(gpu_environment, tmp_path_factory):
    """What the check says of each case, just fitting and just too large.

    One process checks all of them: vLLM's parser takes ten seconds to import.
    """
    folder = tmp_path_factory.mktemp("checkpoints")
    checks = []
    for name, case in CASES.items():
        for more in (0, ELEMENT_BYTES):
            checkpoint = folder / name / str(more) / "m"
            checkpoint.mkdir(parents=True)
            header_checkpoint(checkpoint, case.weights_bytes() + more)
            gpu = GPUS[case.gpu].environment(case.count)
            checks.append((str(checkpoint), gpu, case.settings()))
    question, answer = folder / "checks.json", folder / "answers.json"
    question.write_text(json.dumps(checks))
    done = subprocess.run(
        [PYTHON, "-c", CHECK, str(question), str(answer)],
        env=gpu_environment(
            VLLM_LOGGING_LEVEL="ERROR",
            # The worker sets them before it checks; else they are folders of the home.
            VLLM_CACHE_ROOT=str(folder / "vllm"),
            FLASHINFER_WORKSPACE_BASE=str(folder),
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    texts = iter(json.loads(answer.read_text()))
    return {name: (next(texts), next(texts)) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_weights_of_one_element_too_many_are_refused(answers, name):
    assert answers[name] == ("", CASES[name].message)


def test_the_worker_ends_with_code_4_before_the_engine_starts(gpu_environment, tmp_path):
    case = CASES["H100"]
    folder = tmp_path / "m"
    folder.mkdir()
    header_checkpoint(folder, case.weights_bytes() + ELEMENT_BYTES)
    environ = {"MODEL_NAME": str(folder), "VLLM_LOGGING_LEVEL": "ERROR", **case.settings()}
    done = run_worker(gpu_environment(GPUS[case.gpu], **environ))
    assert (done.returncode, done.stderr) == (4, case.message + "\n")
    assert "starting the engine" not in done.stdout


def test_a_checkpoint_that_cannot_fit_fails_every_job(gpu_environment, tmp_path):
    case = CASES["L4"]
    folder = tmp_path / "m"
    folder.mkdir()
    header_checkpoint(folder, case.weights_bytes() + ELEMENT_BYTES)
    environ = {"MODEL_NAME": str(folder), "VLLM_LOGGING_LEVEL": "ERROR", **case.settings()}
    given = gpu_environment(GPUS[case.gpu], **environ)
    with running_platform() as platform:
        last = assert_lasting(platform, [PYTHON, "-m", "handler"], given, 4)
    assert last == case.message
