"""What fits a GPU, by vLLM's own parser and its own KV cache."""

import json

import pytest

from builder.plan.architecture import parse_architecture
from handler.engine.interface import AUTO
from handler.engine.vllm import platform
from handler.errors import EngineStartFailed
from handler.startup.gpus import Gpu
from tests.engine.conftest import KV_CACHE_BYTES
from tests.support.environment import MODELS, NAME
from tests.support.header_checkpoints import header_checkpoint
from tests.support.vllm_adapter import checked_vllm_adapter as check

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A Llama 70B in 16 bits, and GPUs of 80 GB; the CPU build is told that it runs on a GPU."""
    gpu = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 81559 << 20, "GPU-0")
    monkeypatch.setattr(platform, "gpus", lambda environ: [gpu])
    return header_checkpoint(tmp_path, 141_000_000_000)


@pytest.mark.parametrize(
    "environ",
    [{}, {"TENSOR_PARALLEL_SIZE": "2", "MAX_MODEL_LEN": "131072"}],
    ids=["one GPU", "two GPUs without room for the context that is set"],
)
def test_a_model_that_cannot_fit_is_refused_by_vllms_flags(checkpoint, environ):
    with pytest.raises(EngineStartFailed, match=r"m.* has 141\.0 GB of weights"):
        check(checkpoint, **environ)


@pytest.mark.parametrize(
    "environ",
    [
        {"TENSOR_PARALLEL_SIZE": "4", "MAX_MODEL_LEN": "4096"},
        {"TENSOR_PARALLEL_SIZE": "2", "PIPELINE_PARALLEL_SIZE": "2"},
        {"MAX_MODEL_LEN": "8192", "CPU_OFFLOAD_GB": "100"},
        {"QUANTIZATION": "fp8", "MAX_MODEL_LEN": "8192"},
        {"TENSOR_PARALLEL_SIZE": "4", "MAX_MODEL_LEN": "-1"},
        {"TENSOR_PARALLEL_SIZE": "2", "KV_CACHE_DTYPE": "int4_per_token_head"},
        {"TENSOR_PARALLEL_SIZE": "2", "KV_CACHE_DTYPE": "fp8", "MAX_MODEL_LEN": "32768"},
        {"TENSOR_PARALLEL_SIZE": "2", "KV_CACHE_MEMORY_BYTES": "1000000"},
    ],
    ids=[
        "four GPUs",
        "pipeline stages",
        "offloaded weights",
        "quantized while loading",
        "the longest context that fits",
        "a cache of less than 8 bits",
        "a cache of 8 bits",
        "a cache of a given size",
    ],
)
def test_a_model_that_may_fit_is_accepted_by_vllms_flags(checkpoint, environ):
    check(checkpoint, **environ)


def test_vllm_shortens_the_models_own_context_where_it_has_no_room(checkpoint):
    adapter = check(checkpoint, TENSOR_PARALLEL_SIZE="2")
    assert adapter._args.max_model_len == AUTO


@pytest.mark.parametrize("queue_worker", ["vllm"], indirect=True)
def test_vllm_reports_the_kv_cache_that_builder_plan_calculates(queue_worker):
    """As many blocks as the bytes of a token allow."""
    [metrics] = queue_worker.run({"route": "metrics"}).output
    line = next(each for each in metrics.splitlines() if "vllm:cache_config_info{" in each)
    labels = dict(part.split("=", 1) for part in line.split("{")[1].split("}")[0].split(","))
    block, blocks = (int(labels[name].strip('"')) for name in ("block_size", "num_gpu_blocks"))
    config = json.loads((MODELS / f"{NAME}-bf16" / "config.json").read_text())
    block_bytes = parse_architecture(config).kv_bytes(block)
    assert (block, blocks) == (128, KV_CACHE_BYTES // block_bytes)
