"""A start with each preset: the model's own configuration, beside a simulated GPU of its pool.

The tokenizer is the demo model's with the tokens that parsers look for, the weights are a hole, and
there is no draft model: none of the presets' repositories is at hand. Images are off, because
what prepares them comes with the repository too.
"""

import json
import os
import shutil
import subprocess

import pytest

from builder.presets import PRESETS
from simulated_gpu.gpu import SimulatedGpu
from tests.gpu.conftest import ANSWER, PYTHON
from tests.support import model_configs
from tests.support.environment import MODELS, NAME, ROOT, START_SECONDS
from tests.support.header_checkpoints import safetensors_header

GPU_OF_POOL = {
    "ADA_24": SimulatedGpu("NVIDIA GeForce RTX 4090", "8.9", 24564),
    "AMPERE_16": SimulatedGpu("NVIDIA RTX A4000", "8.6", 16376),
    "ADA_48_PRO": SimulatedGpu("NVIDIA L40S", "8.9", 46068),
    "ADA_80_PRO": SimulatedGpu(),
    "HOPPER_141": SimulatedGpu("NVIDIA H200", "9.0", 143771),
}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
FIRST_ADDED = 50_000  # after the demo model's tokens
PARSER_TOKENS = (
    *("<|python_tag|>", "<tool_call>", "</tool_call>", "<think>", "</think>"),
    *("<|tool_call>", "<tool_call|>", "<|channel>", "<channel|>", "<|turn>", "<turn|>"),
    *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|return|>"),
)
# The simulated engine counts every layer as full attention, so its KV cache is larger than a GPU's.
OFFLINE = {"PREFETCH_WEIGHTS": "false", "HF_HUB_OFFLINE": "1", "SIMULATED_KV_CACHE_GIB": "64"}
VLLM = [preset for preset in PRESETS if preset.engine == "vllm"]


def write_model(folder, preset):
    """Write a folder with the preset's configuration, and a tensor of no values."""
    folder.mkdir()
    for name in TOKENIZER:
        shutil.copy(MODELS / f"{NAME}-awq" / name, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    added = tokenizer["added_tokens"]
    for content in PARSER_TOKENS:
        added.append({**added[0], "id": FIRST_ADDED + len(added), "content": content})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(model_configs.PRESETS[preset.model]))
    file = folder / "model.safetensors"
    file.write_bytes(header := safetensors_header({"w": ("BF16", [1 << 30])}))
    os.truncate(file, len(header) + (2 << 30))
    return folder


def answered(python, environment, job):
    """Return what a worker prints that starts and answers one job."""
    done = subprocess.run(
        [python, "-m", "handler", "--test_input", json.dumps({"input": job})],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("preset", VLLM, ids=lambda preset: preset.model)
def test_a_preset_starts_and_answers(gpu_environment, tmp_path, preset):
    text_only = {"LANGUAGE_MODEL_ONLY": "true"}
    is_multimodal = "vision_config" in model_configs.PRESETS[preset.model]
    # The simulated engine computes no embeddings: the model is listed.
    is_pooling = preset.environment.get("RUNNER") == "pooling"
    job = {"openai_route": "/v1/models"} if is_pooling else {"prompt": "Paris", "max_tokens": 32}
    environment = gpu_environment(
        GPU_OF_POOL[preset.gpu_pools[0]],
        preset.gpu_count,
        **OFFLINE,
        **preset.environment,
        **(text_only if is_multimodal else {}),
        MODEL_NAME=str(write_model(tmp_path / "model", preset)),
    )
    out = answered(PYTHON, environment, job)
    assert ('"id": "model"' if is_pooling else ANSWER) in out
