"""What is done to a model, as data: the same recipe makes the same kind of folder.

`quantize.json` in a finished folder holds it; a folder with another one is not touched.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from builder.errors import CheckpointRefused

Method = Literal["awq", "fp8"]

NAME = "quantize.json"
# Raise it when a change elsewhere in this package changes what lies in the folder.
VERSION = 1
GROUP_SIZES = (128, 64, 32)
# Engines are fastest with 128. What that does not divide is a small model, and those lose three
# times as much with 64 as with 32.
TRIED_SIZES = (128, 32)
# The output layer decides between tokens and a router between experts: both are small, and lose
# more by rounding than they save. compressed-tensors' patterns, `re:` and an expression.
IGNORED = ("lm_head", r"re:.*\.gate$", r"re:.*\.router(\..*)?$", r"re:.*shared_expert_gate$")


@dataclass(frozen=True)
class Recipe:
    """How one folder is made.

    Attributes:
        base: the unquantized model.
        commit: of the base; the checksum of its files where it came from no hub.
        method: awq or fp8.
        held_out: the text that both models are compared on.
        sequence_tokens: the length of a sample, and of a window of the held-out text.
        dataset: the text to calibrate with, with its checksum; None where none is needed.
        samples: how many of them calibrate.
        grid: how many scales AWQ tries for each group of layers.
        group_size: of AWQ's groups, None for 128 where that divides every layer, else 32.
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

    def text(self) -> str:
        """Return what `quantize.json` holds."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2) + "\n"

    def difference(self, text: str) -> str | None:
        """Say in a few words how the recipe in `text` differs, None where it does not."""
        ours, theirs = json.loads(self.text()), _object(text)
        for key, value in ours.items():
            if theirs.get(key) != value:
                name = key.replace("_", " ")
                return f"was made with {name} {_shown(theirs.get(key))}, not {_shown(value)}"
        return None


def fitting(widths: Iterable[int], sizes: Sequence[int] = TRIED_SIZES) -> int | None:
    """Return the first size of a group that divides every width, None if none does."""
    every = tuple(widths)
    return next((size for size in sizes if all(width % size == 0 for width in every)), None)


def group_size(widths: Mapping[str, int], asked: int | None = None) -> int:
    """Return the size of a group that divides the input width of every layer.

    Args:
        widths: inputs of each linear layer that is to be quantized.
        asked: the size that it has to be, None for the first that fits.

    Raises:
        CheckpointRefused: no size does, with the first layer that is at fault.
    """
    sizes = (asked,) if asked else TRIED_SIZES
    if size := fitting(widths.values(), sizes):
        return size
    name, width = next((n, w) for n, w in widths.items() if w % sizes[-1])
    advice = "choose a smaller --group-size, or --to fp8" if asked else "choose --to fp8"
    raise CheckpointRefused(
        f"{name} has {width} inputs, which do not divide into groups of "
        f"{' or '.join(map(str, sizes))}: {advice}."
    )


def _object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
