"""The result of quantizing, and the README.md beside the weights that reports it."""

from dataclasses import asdict, dataclass
from pathlib import Path

from builder.quantize.documents import TextFile
from builder.quantize.inputs import BaseCheckpoint
from builder.quantize.recipe import QuantizationRecipe

TEMPLATE = Path(__file__).with_name("model_card.md")
MIN_COMPARED_TOKENS = 5000  # with fewer, chance moves the perplexity by percents

_METHODS = {
    "fp8": (
        "Weights of the linear layers are float8_e4m3 with one scale per output channel; "
        "activations are scaled per token while the engine runs (FP8 dynamic, no calibration)."
    ),
    "awq": (
        "Weights of the linear layers are four-bit integers in groups of {group_size} inputs, "
        "{zero_points} zero points; before rounding, AWQ moved scale from weights to activations, "
        "calibrated on {calibrated_tokens} tokens."
    ),
}
_CAUTION = """
So few tokens show whether the model still works, not a change of a few percent.
Use `--held-out` with more text for that.
"""


@dataclass(frozen=True)
class QuantizedLayers:
    """How many layers were quantized; the group size and zero points are AWQ's."""

    count: int
    group_size: int | None = None
    zero_points: bool = False


@dataclass(frozen=True)
class QuantizationResult:
    """The quantized layers, and the perplexity before and after.

    Attributes:
        calibrated_tokens: tokens that AWQ used, 0 for FP8.
        compared_tokens: predicted tokens of the held-out text.
        before: perplexity of the base.
        after: perplexity of the quantized model, read back from disk.
        version: of llm-compressor.
    """

    layers: QuantizedLayers
    calibrated_tokens: int
    compared_tokens: int
    before: float
    after: float
    version: str

    @property
    def change_percent(self) -> float:
        return (self.after / self.before - 1) * 100


def model_card(
    title: str,
    base: BaseCheckpoint,
    recipe: QuantizationRecipe,
    held_out: TextFile,
    result: QuantizationResult,
) -> str:
    layers = result.layers
    front = [f"license: {base.licence}"] if base.licence else []
    if base.is_from_hub:
        front += [f"base_model: {base.repository}", "base_model_relation: quantized"]
    front += ["tags:", f"- {recipe.method}", "- compressed-tensors"]
    rows = asdict(recipe) | {"layers": layers.count, "group_size": layers.group_size}
    return TEMPLATE.read_text(encoding="utf-8").format(
        front="\n".join(front),
        title=title,
        base=base.repository,
        version=result.version,
        method=_METHODS[recipe.method].format(
            group_size=layers.group_size,
            zero_points="with" if layers.zero_points else "without",
            calibrated_tokens=result.calibrated_tokens,
        ),
        held_out=held_out.name,
        tokens=result.compared_tokens,
        before=result.before,
        after=result.after,
        change=result.change_percent,
        caution="" if result.compared_tokens >= MIN_COMPARED_TOKENS else _CAUTION,
        rows="\n".join(
            f"| {name.replace('_', ' ')} | {value} |"
            for name, value in rows.items()
            if value is not None
        ),
    )
