"""LoRA adapters that the engines cannot serve with a model, from their files alone."""

import json

import pytest

from handler.errors import InvalidSetting
from handler.model.lora_check import check_adapter
from tests.support.header_checkpoints import safetensors_header

PREFIX = "base_model.model.model."


@pytest.fixture
def model(tmp_path):
    """Two layers of hidden size 64, the language model of a larger one."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"text_config": {"num_hidden_layers": 2, "hidden_size": 64}}
    (folder / "config.json").write_text(json.dumps(config))
    names = [
        *(f"language_model.model.layers.{n}.self_attn.q_proj.qweight" for n in range(2)),
        *(f"vision_tower.blocks.{n}.attn.qkv.weight" for n in range(4)),
        "language_model.model.embed_tokens.weight",
    ]
    tensors = {name: ("BF16", [64, 64]) for name in names}
    (folder / "model.safetensors").write_bytes(safetensors_header(tensors))
    return folder


def adapter(folder, tensors=(), **config):
    """Write an adapter with tensors of some shape by name."""
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8} | config))
    shapes = {name: ("F32", shape) for name, shape in dict(tensors).items()}
    (folder / "adapter_model.safetensors").write_bytes(safetensors_header(shapes))
    return folder


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "the engines do not implement DoRA (use_dora)"),
        ({"lora_bias": True}, "the engines do not implement LoRA biases (lora_bias)"),
        ({"bias": "all"}, "the engines do not implement trained biases (bias='all')"),
        (
            {"modules_to_save": ["embed_tokens", "lm_head"]},
            "the engines do not replace whole modules (modules_to_save=['embed_tokens', "
            "'lm_head'])",
        ),
        (
            {"init_lora_weights": "pissa_niter_16"},
            "init_lora_weights='pissa_niter_16' also changed the base model: convert it to plain "
            "LoRA with PEFT's path_initial_model_for_weight_conversion",
        ),
        ({"peft_type": "LOHA"}, "it is LOHA, and the engines support only LORA"),
    ],
    ids=["DoRA", "LoRA bias", "bias", "modules to save", "PiSSA", "LoHa"],
)
def test_an_adapter_with_a_feature_that_no_engine_has_is_refused(tmp_path, config, reason):
    """Before the model is known, in the image's build too."""
    with pytest.raises(InvalidSetting) as raised:
        check_adapter("sql", adapter(tmp_path, **config), None)
    assert str(raised.value) == f"LORA_MODULES: sql cannot be served: {reason}."


@pytest.mark.parametrize(
    "config",
    [
        {"bias": "none", "modules_to_save": None, "use_dora": False},
        {"modules_to_save": ["score"], "init_lora_weights": "gaussian", "peft_type": "LORA"},
        {"init_lora_weights": True, "layer_replication": None},
        {"modules_to_save": "score", "peft_type": "lora"},
    ],
    ids=["defaults", "classifier", "plain initialisation", "a word"],
)
def test_other_adapters_pass(tmp_path, config):
    check_adapter("sql", adapter(tmp_path, **config), None)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (
            {f"{PREFIX}layers.{n}.self_attn.q_proj.lora_A.weight": [8, 64] for n in (0, 27)},
            "it has a layer 27, and the model has 2 layers",
        ),
        (
            {"base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": [8, 64]},
            "the model has none of the adapter's modules, such as h.0.attn.c_attn",
        ),
        (
            {f"{PREFIX}layers.0.self_attn.q_proj.lora_A.weight": [8, 4096]},
            "its hidden size is 4096, and the model's is 64",
        ),
    ],
    ids=["layers", "names", "hidden size"],
)
def test_an_adapter_of_another_model_is_refused(tmp_path, model, tensors, reason):
    """With the model that it was trained on, where it says so."""
    folder = adapter(tmp_path, tensors, base_model_name_or_path="org/other")
    with pytest.raises(InvalidSetting) as raised:
        check_adapter("sql", folder, model)
    assert str(raised.value) == (
        f"LORA_MODULES: sql cannot be served: {reason} (it was trained on org/other)."
    )


Q_PROJ = f"{PREFIX}layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (
            {f"{Q_PROJ}.weight": [64, 64]},
            "adapter_model.safetensors has no LoRA tensors, whose names end in lora_A.weight",
        ),
        (
            {f"{Q_PROJ}.lora_A.weight": [0]},
            f"adapter_model.safetensors has empty tensors such as {Q_PROJ}.lora_A.weight: save it "
            "again from all ranks of the training (DeepSpeed ZeRO-3 leaves each rank a part)",
        ),
        (
            {f"{Q_PROJ}.lora_A.weight": [8, 64], f"{PREFIX}embed_tokens.weight": [70, 64]},
            "the engines support only LoRA tensors, and adapter_model.safetensors also has "
            f"{PREFIX}embed_tokens.weight",
        ),
    ],
    ids=["whole weights", "empty", "resized embeddings"],
)
def test_an_adapter_with_tensors_that_no_engine_takes_is_refused(tmp_path, model, tensors, reason):
    """Whatever its configuration says: vLLM finds out after the weights, SGLang never."""
    with pytest.raises(InvalidSetting) as raised:
        check_adapter("sql", adapter(tmp_path, tensors), model)
    assert str(raised.value) == f"LORA_MODULES: sql cannot be served: {reason}."


@pytest.mark.parametrize(
    "tensors",
    [
        {f"{PREFIX}layers.1.self_attn.q_proj.lora_A.weight": [8, 64]},
        {"model.language_model.layers.1.self_attn.q_proj.lora_B.weight": [64, 8]},
        {"base_model.model.vision_tower.blocks.3.attn.qkv.lora_A.weight": [8, 32]},
        {"base_model.model.lm_head.lora_A.weight": [8, 64]},
        {
            f"{PREFIX}embed_tokens.lora_embedding_A": [8, 64],
            f"{PREFIX}embed_tokens.base_layer.weight": [64, 64],
        },
        {
            f"{PREFIX}layers.1.self_attn.q_proj.lora_A.weight": [8, 64],
            f"{PREFIX}layers.1.mlp.experts.gate_up_proj.lora_A.weight": [8, 64],
        },
    ],
    ids=["layer", "another prefix", "vision", "tied head", "embeddings", "fused experts"],
)
def test_an_adapter_of_the_model_passes(tmp_path, model, tensors):
    """Names differ between libraries in front of the layer, and for experts."""
    check_adapter("sql", adapter(tmp_path, tensors), model)
