"""Which checkpoints can be quantized, and which file of a data set is used."""

import json

import pytest

from builder.errors import CheckpointRefused, InvalidArgument
from builder.quantize.inputs import check_base, select_data_file


@pytest.mark.parametrize(
    ("config", "files", "message"),
    [
        ({}, ["pytorch_model.bin"], "m has its weights only as pickle (pytorch_model.bin)"),
        ({}, [], "m has no weights."),
        (
            {"vision_config": {"a": 1}},
            ["model.safetensors"],
            "m is multimodal (vision_config in config.json)",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, [], "m is already quantized, as 'fp8'"),
        (None, [], "m is not a model: config.json cannot be read."),
        (
            None,
            ["params.json", "consolidated.safetensors"],
            "m is in Mistral's own format, which llm-compressor does not read: choose a repository "
            "with config.json and model.safetensors.",
        ),
    ],
    ids=["pickle", "no weights", "multimodal", "quantized", "no model", "Mistral's"],
)
def test_a_checkpoint_that_cannot_be_quantized_is_refused(tmp_path, config, files, message):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointRefused) as refused:
        check_base(tmp_path, "m")
    assert str(refused.value)[: len(message)] == message


@pytest.mark.parametrize(
    ("names", "asked", "selected"),
    [
        (["README.txt", "b.jsonl", "a/train-0.parquet"], None, "a/train-0.parquet"),
        (["b.jsonl", "a.txt", "LICENSE.txt"], None, "a.txt"),
        (["b.jsonl", "a.txt"], "b.jsonl", "b.jsonl"),
        (["b.jsonl"], "c.jsonl", None),
        (["README.md", "a.csv"], None, None),
    ],
    ids=["training", "first", "asked", "missing", "none"],
)
def test_the_training_file_of_a_data_set_is_selected(names, asked, selected):
    if selected:
        assert select_data_file("org/d", names, asked) == selected
        return
    with pytest.raises(InvalidArgument, match=r"^org/d has no"):
        select_data_file("org/d", names, asked)
