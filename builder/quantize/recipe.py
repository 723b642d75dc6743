"""The recipe of a quantization, stored as `quantize.json` in the finished folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from builder.errors import CheckpointRefused

Method = Literal["awq", "fp8"]

RECIPE_FILE = "quantize.json"
# Increase it when a change elsewhere in this package changes the quantized weights.
VERSION = 1
GROUP_SIZES = (128, 64, 32)
# Engines are fastest with 128. A model that 128 does not divide is small, and a small model loses
# three times as much with 64 as with 32.
DEFAULT_GROUP_SIZES = (128, 32)
# Output layers and the routers of experts are small and lose more than they save. The patterns are
# compressed-tensors': `re:` and an expression.
IGNORED_LAYERS = ("lm_head", r"re:.*\.gate$", r"re:.*\.router(\..*)?$", r"re:.*shared_expert_gate$")
MULTIMODAL_CONFIGS = ("vision_config", "audio_config")  # of models that are not supported


@dataclass(frozen=True)
class QuantizationRecipe:
    """How one folder is made.

    Attributes:
        base: name of the unquantized model.
        commit: of the base on the hub, or the checksum of its files.
        method: awq or fp8.
        held_out: identity of the text on which both models are measured.
        sequence_tokens: length of a sample, and of a window of the held-out text.
        dataset: identity of the calibration text, None for FP8, like the following.
        samples: windows of text that calibrate.
        grid: scales that AWQ tries for each group of layers.
        group_size: of AWQ; None for the first of DEFAULT_GROUP_SIZES that divides every layer.
    """

    base: str
    commit: str
    method: Method
    held_out: str
    sequence_tokens: int
    dataset: str | None = None
    samples: int | None = None
    grid: int | None = None
    group_size: int | None = None

    def json_text(self) -> str:
        """Return the content of `quantize.json`."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2) + "\n"

    def difference(self, text: str) -> str | None:
        """Return the first difference from another `quantize.json` in words, None if equal."""
        try:
            other = json.loads(text)
        except ValueError:
            other = None
        other = other if isinstance(other, dict) else {}
        for key, value in json.loads(self.json_text()).items():
            if other.get(key) != value:
                name = key.replace("_", " ")
                return f"was made with {name} {_shown(other.get(key))}, not {_shown(value)}"
        return None


def select_group_size(widths: Mapping[str, int], asked: int | None = None) -> int:
    """Return a group size that divides the input width of every layer.

    Args:
        widths: inputs of each linear layer to quantize, by name.
        asked: the required size, None for the first default that fits.

    Raises:
        CheckpointRefused: no size fits; names the first layer that it does not divide.
    """
    sizes = (asked,) if asked else DEFAULT_GROUP_SIZES
    for size in sizes:
        if all(width % size == 0 for width in widths.values()):
            return size
    name, width = next((n, w) for n, w in widths.items() if w % sizes[-1])
    advice = "choose fp8, or a smaller --group-size" if asked else "choose fp8"
    raise CheckpointRefused(
        f"AWQ's groups of {' or '.join(map(str, sizes))} do not divide the {width} inputs of "
        f"{name}: {advice}."
    )


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
