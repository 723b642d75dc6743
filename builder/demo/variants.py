"""The three variants of the demo model, with the recipe and the model card in their folders.

A folder's `recipe.json` has everything that decides its content: a folder with another one is made
again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from builder.demo import wheel

Precision = Literal["awq", "fp8", "none"]

# Increase it when a change elsewhere in this package changes the content of the folder.
RECIPE_VERSION = 2
AWQ_GROUP_SIZE = 32  # the hidden size, 576, is not a multiple of the usual 128
MODEL_CARD = Path(__file__).with_name("model_card.md")

_SUFFIXES: dict[Precision, str] = {"awq": "awq", "fp8": "fp8", "none": "bf16"}
_METHODS: dict[Precision, str] = {
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


@dataclass(frozen=True)
class DemoVariant:
    """The demo model in one precision."""

    precision: Precision

    @property
    def folder_name(self) -> str:
        """Return the name of the folder in `models`."""
        return f"smollm2-135m-instruct-{_SUFFIXES[self.precision]}"

    def recipe_json(self) -> str:
        """Return the content of `recipe.json`: equal texts mean equal folders."""
        content: dict[str, Any] = {
            "version": RECIPE_VERSION,
            "variant": self.precision,
            "package": f"{wheel.PACKAGE}=={wheel.VERSION}",
            "wheel_sha256": wheel.SHA256,
            "gguf_sha256": wheel.GGUF_SHA256,
        }
        if self.precision == "awq":
            content["group_size"] = AWQ_GROUP_SIZE
        return json.dumps(content, indent=2) + "\n"

    def model_card(self) -> str:
        """Return the content of README.md: origin, licence, method, how to make it again."""
        return MODEL_CARD.read_text(encoding="utf-8").format(
            name=self.folder_name,
            variant=self.precision,
            done=_METHODS[self.precision],
            package=wheel.PACKAGE,
            version=wheel.VERSION,
            wheel_name=wheel.FILE_NAME,
            wheel_sha256=wheel.SHA256,
            gguf_name=wheel.GGUF_MEMBER.rpartition("/")[2],
            gguf_sha256=wheel.GGUF_SHA256,
        )
