"""The checkpoints without weights, and what a device runs them with."""

import json
from dataclasses import replace

import pytest

from benchmarks.devices import DEVICES, ROOT, command_line
from benchmarks.models import SHAPES, make_tokenizer, model_config, write_model
from simulated_gpu.gpu import EXECUTOR

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
    "bos_token_id": 128254,
    "eos_token_id": 128255,
}


def test_the_large_model_has_the_shape_of_llama_3_1_8b():
    assert model_config(SHAPES["8b"], "none") == LLAMA_8B


@pytest.mark.parametrize(
    ("quantization", "method"), [("fp8", "compressed-tensors"), ("awq", "awq")], ids=["fp8", "awq"]
)
def test_a_quantized_checkpoint_has_one_field_more(quantization, method):
    config = model_config(SHAPES["8b"], quantization)
    quantized = config.pop("quantization_config")
    assert (config, quantized["quant_method"]) == (LLAMA_8B, method)


@pytest.mark.parametrize("name", SHAPES, ids=str)
def test_awq_groups_divide_the_shape(name):
    shape = SHAPES[name]
    group = model_config(shape, "awq")["quantization_config"]["group_size"]
    assert (shape.hidden % group, shape.intermediate % group) == (0, 0)


def test_every_token_of_the_tokenizer_is_printable_text():
    tokenizer = make_tokenizer(1024)
    assert tokenizer.get_vocab_size() == 1024
    texts = [tokenizer.decode([token]) for token in range(1022)]
    assert [len(text) for text in texts] == [1] * 95 + [2] * 676 + [4] * 251
    assert all(text.isprintable() for text in texts)
    assert tokenizer.decode([1022, 1023], skip_special_tokens=False) == "<s></s>"


def test_a_checkpoint_is_written_once(tmp_path):
    folder = write_model(tmp_path / "model", SHAPES["tiny"])
    config = folder / "config.json"
    assert json.loads(config.read_text())["vocab_size"] == 771
    config.write_text("{}")
    assert write_model(folder, SHAPES["tiny"]) == folder
    assert config.read_text() == "{}"


def test_engine_arguments_are_written_as_flags():
    arguments = {"max_num_seqs": 8, "load_format": "dummy", "speculative_config": {"method": "a"}}
    assert command_line(arguments) == [
        "--max-num-seqs=8",
        "--load-format=dummy",
        '--speculative-config={"method": "a"}',
    ]


def test_a_worker_inherits_only_what_a_process_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("MAX_MODEL_LEN", "1")
    monkeypatch.setenv("CUDA_HOME", "/cuda")
    device = replace(DEVICES["gpu"], environ={}).with_options(None, {"VLLM_LOGGING_LEVEL": "INFO"})
    environ = device.environment(tmp_path, dummy_weights=True)
    assert "MAX_MODEL_LEN" not in environ
    names = ("CUDA_HOME", "MODEL_NAME", "MAX_CONCURRENCY", "VLLM_LOGGING_LEVEL", "ENGINE_ARGS")
    assert [environ[name] for name in names] == [
        "/cuda",
        str(tmp_path),
        "512",
        "INFO",
        "--max-num-seqs=512 --max-model-len=2048 --max-num-batched-tokens=8192 --load-format=dummy",
    ]


def test_a_simulated_gpu_runs_the_executor_that_was_given(tmp_path):
    device = DEVICES["simulated"].with_options("package.Executor", {})
    arguments = device.environment(tmp_path, dummy_weights=True)["ENGINE_ARGS"]
    assert "--distributed-executor-backend=package.Executor" in arguments.split()


def test_a_simulated_gpu_has_the_cuda_build_and_the_simulated_engine(tmp_path):
    device = DEVICES["simulated"]
    environ = device.environment(tmp_path, dummy_weights=True)
    assert f"--distributed-executor-backend={EXECUTOR}" in environ["ENGINE_ARGS"].split()
    assert environ["SIMULATED_GPUS"] == "1"
    assert device.python["vllm"] == str(ROOT / ".venv-cuda/bin/python")
    assert device.python["sglang"] == str(ROOT / ".venv-sglang-cuda/bin/python")
    assert (
        device.environment(tmp_path, "sglang", dummy_weights=True)["SGLANG_PLUGINS"]
        == "simulated_gpu"
    )
