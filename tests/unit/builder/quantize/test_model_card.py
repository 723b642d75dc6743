"""The README.md of a quantized model."""

from pathlib import Path

from builder.quantize.documents import TextFile
from builder.quantize.inputs import BaseCheckpoint
from builder.quantize.model_card import QuantizationResult, QuantizedLayers, model_card
from builder.quantize.recipe import QuantizationRecipe


def test_the_card_has_origin_method_and_perplexity():
    recipe = QuantizationRecipe(
        "org/m", "c0ffee", "awq", "text.txt sha256:1", 512, "d.jsonl sha256:2", 128, 20
    )
    result = QuantizationResult(QuantizedLayers(7, 128, True), 65536, 1000, 10.0, 10.5, "0.14")
    text = model_card(
        "m-awq",
        BaseCheckpoint(Path("m"), "org/m", "main", "c0ffee", "apache-2.0"),
        recipe,
        TextFile(Path("text.txt"), "text.txt", "1"),
        result,
    )
    assert text.startswith("---\nlicense: apache-2.0\nbase_model: org/m\n")
    assert "groups of 128 inputs, with zero points; before rounding, AWQ moved scale" in text
    assert "| before | 10.000 |\n| after | 10.500 (+5.0 %) |" in text
    assert "So few tokens" in text
    assert "| commit | c0ffee |" in text
    assert "| dataset | d.jsonl sha256:2 |\n| samples | 128 |\n| grid | 20 |\n" in text
    assert "| group size | 128 |\n| layers | 7 |\n" in text
