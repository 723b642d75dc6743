"""The README.md that lies beside the weights: origin, licence, what was done, what it cost."""

from builder.quantize.base import Base
from builder.quantize.recipe import Recipe
from builder.quantize.result import ENOUGH_TOKENS, Result
from builder.quantize.source import Source

_METHODS = {
    "fp8": (
        "Weights of the linear layers are float8_e4m3 with one scale per output channel; "
        "activations are scaled per token while the engine runs (FP8 dynamic, no calibration)."
    ),
    "awq": (
        "Weights of the linear layers are four-bit integers in groups of {group_size} inputs, "
        "{zero_points} zero points; before they were rounded, AWQ moved scale from weights to "
        "activations on {calibrated_tokens} tokens."
    ),
}

_CARD = """\
---
{front}
---
# {title}

{base}, quantized by llm-compressor {version} in the format compressed-tensors. {method} The output
layer, the embeddings, the norms and the routers of experts are as they were.

## What it cost
Perplexity on {tokens} tokens of {held_out} that did not calibrate, read by transformers:

| model | perplexity |
| --- | --- |
| before | {before:.3f} |
| after | {after:.3f} ({change:+.1f} %) |
{caution}
## How it was made
| | |
| --- | --- |
{rows}

`manifest.json` has the files with their checksums.
"""

_CAUTION = """
So few tokens say whether the model still works, and little of a few percent.
`--held-out` takes more.
"""


def card(title: str, base: Base, recipe: Recipe, held_out: Source, result: Result) -> str:
    """Return the card's text.

    Args:
        title: the folder's name.
        base: the unquantized model.
        recipe: what was asked for.
        held_out: what the models were compared on.
        result: what came out.
    """
    method = _METHODS[recipe.method].format(
        group_size=result.written.group_size,
        zero_points="with" if result.written.zero_points else "without",
        calibrated_tokens=result.calibrated_tokens,
    )
    return _CARD.format(
        front="\n".join(_front(base, recipe)),
        title=title,
        base=base.repository,
        version=result.version,
        method=method,
        held_out=held_out.name,
        tokens=result.compared_tokens,
        before=result.before,
        after=result.after,
        change=result.change_percent,
        caution="" if result.compared_tokens >= ENOUGH_TOKENS else _CAUTION,
        rows="\n".join(f"| {name} | {value} |" for name, value in _rows(base, recipe, result)),
    )


def _front(base: Base, recipe: Recipe) -> list[str]:
    lines = [f"license: {base.licence}"] if base.licence else []
    if base.is_of_the_hub:
        lines += [f"base_model: {base.repository}", "base_model_relation: quantized"]
    return [*lines, "tags:", f"- {recipe.method}", "- compressed-tensors"]


def _rows(base: Base, recipe: Recipe, result: Result) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("base model", base.repository),
        ("commit", base.commit),
        ("method", recipe.method),
        ("layers", result.written.layers),
    ]
    if recipe.method == "awq":
        rows += [
            ("group size", result.written.group_size),
            ("calibrated on", recipe.dataset),
            ("samples", recipe.samples),
            ("scales tried", recipe.grid),
        ]
    return [*rows, ("tokens of a sample", recipe.sequence_tokens), ("held out", recipe.held_out)]
