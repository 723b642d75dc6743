"""The README.md that lies beside the weights: origin, licence, what was done, how to repeat it."""

from builder.demo import wheel
from builder.demo.recipe import Recipe, Variant

_DONE: dict[Variant, str] = {
    "awq": (
        "The linear layers were rounded to four bits again, in AWQ's gemm layout: groups of 32,\n"
        "integer zero points, per group the scale and zero point with the least squared error,\n"
        "without calibration data. Embeddings (tied to the output layer) and norms are float16."
    ),
    "fp8": (
        "The linear layers were rounded to float8_e4m3 with one scale per output channel, in\n"
        "compressed-tensors' FP8_DYNAMIC scheme: activations are scaled per token while the\n"
        "engine runs. The down projections, whose inputs have extreme values, the embeddings\n"
        "(tied to the output layer) and the norms are float16."
    ),
    "none": "All weights are stored as bfloat16.",
}

_CARD = """\
---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
language: en
---
# {name}

SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), Apache-2.0 (see LICENSE), for
demonstrations and tests. It is small: do not trust its facts.

## What was done
The weights come from the Python package {package} {version}, which carries the model as a
GGUF file whose linear layers have four bits (Q4_1) and whose embeddings have eight (Q8_0). They
were dequantized, so in every precision this is a four-bit model: what the first rounding lost
is not restored.

{done}

The tokenizer was built from the GGUF's vocabulary, with upstream's splitting into single digits.
The chat template is upstream's; chats with tools, which it cannot render, are rendered in the
Hermes format. The model was not trained to call tools.

## Make it again
```
python -m builder.demo --variant {variant}
```

| file | sha256 |
| --- | --- |
| {wheel_name} | {wheel_sha256} |
| {gguf_name} | {gguf_sha256} |
"""


def model_card(recipe: Recipe) -> str:
    """The card's text."""
    return _CARD.format(
        name=recipe.name,
        variant=recipe.variant,
        done=_DONE[recipe.variant],
        package=wheel.PACKAGE,
        version=wheel.VERSION,
        wheel_name=wheel.FILE_NAME,
        wheel_sha256=wheel.SHA256,
        gguf_name=wheel.GGUF_MEMBER.rpartition("/")[2],
        gguf_sha256=wheel.GGUF_SHA256,
    )
