"""The modules of FlashInfer that a model needs; `tests/gpu` compares them with the engines'."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from builder.errors import InvalidArgument
from builder.kernel_modules import MODULES, Model, read_model, specifications

LLAMA = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
MODEL = Model(head_dim=128, heads_per_kv_head=4, dtype="bfloat16", has_fp8_blocks=True)
FEW_HEADS = Model(head_dim=64, heads_per_kv_head=3, dtype="float16", has_fp8_blocks=False)
ATTENTION = ("int32", 128, 128, 0, False, False)


@pytest.fixture(autouse=True)
def flashinfer(monkeypatch):
    """FlashInfer's functions, which return their names; neither it nor its torch is needed."""
    for module in MODULES:
        name, _, function = module.function.partition(":")
        stand_in = sys.modules.get(name, ModuleType(name))
        monkeypatch.setitem(sys.modules, name, stand_in)
        monkeypatch.setattr(stand_in, function, call(function), raising=False)
    types = SimpleNamespace(bfloat16="bfloat16", float16="float16", int32="int32")
    monkeypatch.setitem(sys.modules, "torch", types)


def call(function):
    return lambda *arguments: (function, *arguments)


def described(*arguments, **more):
    by_targets = specifications(*arguments, **more)
    return {targets: [describe() for describe in each] for targets, each in by_targets.items()}


def config(tmp_path, **fields):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA | fields))
    return file


@pytest.mark.parametrize(
    ("engine", "modules"),
    [
        ("vllm", {("9.0a", "8.9"): [("gen_sampling_module",)]}),
        (
            "sglang",
            {
                ("9.0a", "8.9"): [("gen_sampling_module",)],
                ("8.9",): [("gen_cascade_module",)],
            },
        ),
    ],
)
def test_without_a_model_they_are_those_that_all_models_use(engine, modules):
    assert described(["9.0a", "8.9"], engine) == modules


@pytest.mark.parametrize("architecture", ["8.0", "8.9", "12.0", "12.0a", "12.0f"])
def test_sglangs_attention_is_flashinfers_where_it_has_no_other(architecture):
    types = ("bfloat16",) * 3
    assert described([architecture], "sglang", MODEL) == {
        (architecture,): [
            ("gen_sampling_module",),
            ("gen_cascade_module",),
            ("_gen_batch_prefill_primary_module", "fa2", *types, *ATTENTION, False),
        ]
    }


@pytest.mark.parametrize("architecture", ["9.0a", "10.0a"])
def test_other_gpus_have_attention_of_their_own(architecture):
    assert described([architecture], "sglang", MODEL) == {
        (architecture,): [("gen_sampling_module",)]
    }


def test_few_query_heads_for_each_kv_head_have_a_module_for_decode():
    [modules] = described(["8.9"], "sglang", FEW_HEADS).values()
    types = ("float16",) * 3
    assert modules[-1] == ("gen_batch_decode_module", *types, "int32", 64, 64, 0, False, False)


def test_vllm_multiplies_blocks_of_fp8_with_flashinfer_on_hopper():
    assert described(["9.0a", "8.9"], "vllm", MODEL) == {
        ("9.0a", "8.9"): [("gen_sampling_module",)],
        ("9.0a",): [("gen_fp8_blockscale_gemm_sm90_module",)],
    }


def test_several_gpus_have_the_all_reduce():
    assert described(["9.0a", "8.9"], "vllm", gpus=2) == {
        ("9.0a", "8.9"): [("gen_sampling_module",)],
        ("9.0a",): [("gen_trtllm_mnnvl_comm_module",), ("gen_trtllm_comm_module",)],
    }


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({"torch_dtype": "bfloat16"}, Model(128, 4, "bfloat16", False)),
        ({"dtype": "float16", "head_dim": 64}, Model(64, 4, "float16", False)),
        ({"dtype": "float32"}, Model(128, 4, "float16", False)),
        ({"model_type": "gemma2"}, Model(256, 4, "bfloat16", False)),
        (
            {"dtype": "bfloat16", "quantization_config": BLOCKS},
            Model(128, 4, "bfloat16", True),
        ),
        (
            {"dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}},
            Model(128, 4, "bfloat16", False),
        ),
        ({"dtype": "bfloat16", "kv_lora_rank": 512}, Model(0, 1, "bfloat16", False)),
        (
            {"dtype": "bfloat16", "text_config": LLAMA | {"head_dim": 64}},
            Model(64, 4, "bfloat16", False),
        ),
    ],
    ids="bf16 fp16 fp32 gemma blocks fp8 MLA multimodal".split(),
)
def test_a_config_is_read(tmp_path, fields, model):
    assert read_model(config(tmp_path, **fields)) == model


def test_a_model_without_attention_needs_no_module_of_its_own(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "mamba", "dtype": "bfloat16"}')
    assert read_model(file) == Model(0, 1, "bfloat16", False)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_what_is_no_config_is_refused(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=r"config\.json is not a model's config\.json: "):
        read_model(file)
