"""What `plan` says of the presets: each fits its GPUs with its settings."""

import pytest

from builder.plan.architecture import parse_architecture
from builder.plan.estimate import Estimator, Workload
from builder.plan.quantization_groups import parse_quantization_groups
from builder.plan.weights import WeightSizes
from builder.presets import PRESETS
from handler.gpu_pools import load_gpu_table
from tests.support import model_configs

# Gigabytes of the repository's weights, and of the draft model's where there is one.
WEIGHTS_GB = {
    "Qwen/Qwen3-8B-FP8": 9.4,
    "Qwen/Qwen3-1.7B-FP8": 2.0,
    "Qwen/Qwen2.5-7B-Instruct-AWQ": 5.6,
    "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic": 9.1,
    "openai/gpt-oss-20b": 13.8,
    "openai/gpt-oss-120b": 65.3,
    "Qwen/Qwen3.6-27B-FP8": 31.0,
    "Qwen/Qwen3.6-35B-A3B-FP8": 37.5,
    "RedHatAI/gemma-4-31B-it-FP8-block": 33.3,
    "Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8": 31.2,
    "casperhansen/llama-3.3-70b-instruct-awq": 39.8,
    "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic": 72.7,
    "chroma-core/Qwen3-Embedding-4B-FP8-Dynamic": 4.4,
    "Qwen/Qwen3-14B-FP8": 16.3,
}
DRAFT_GB = 3.5  # the largest EAGLE-3 head of these, that of the 70B
MIN_REQUESTS = 8  # of 2,048 tokens, that must fit at once
POOLS = {pool.name: pool for pool in load_gpu_table().pools}
PLACES = [(preset, name) for preset in PRESETS for name in preset.gpu_pools]


@pytest.mark.parametrize(
    ("preset", "pool"), PLACES, ids=[f"{preset.model}-{name}" for preset, name in PLACES]
)
def test_a_preset_fits_each_of_its_gpus(preset, pool):
    config = model_configs.PRESETS[preset.model]
    environment = preset.environment
    context = environment["MAX_MODEL_LEN"]
    method = config["quantization_config"]["quant_method"]
    draft = DRAFT_GB if preset.speculator else 0.0
    size = int((WEIGHTS_GB[preset.model] + draft) * 1e9)
    groups = parse_quantization_groups(config)
    workload = Workload(
        context_tokens=8192 if context == "auto" else int(context),
        request_tokens=2048,
        concurrency=MIN_REQUESTS,
        kv_element_bytes=1 if environment.get("KV_CACHE_DTYPE") == "fp8" else 2,
    )
    weights = WeightSizes(size, 0, 0, method, True, groups)
    estimate = Estimator(parse_architecture(config), weights, workload).estimate(
        POOLS[pool], preset.gpu_count
    )
    assert estimate.obstacle is None
    assert estimate.max_sequences >= MIN_REQUESTS
