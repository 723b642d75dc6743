"""How the demo model is made, as data: what is built, from what, with which numbers.

`recipe.json` in a finished folder holds it; a folder with another recipe is made again.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from builder.demo import wheel

Variant = Literal["awq", "fp8", "none"]

# Raise it when a change elsewhere in this package changes what lies in the folder.
VERSION = 2
# The hidden size, 576, is not a multiple of the usual 128.
AWQ_GROUP_SIZE = 32

_SUFFIXES: dict[Variant, str] = {"awq": "awq", "fp8": "fp8", "none": "bf16"}


@dataclass(frozen=True)
class Recipe:
    """One of the three precisions."""

    variant: Variant

    @property
    def name(self) -> str:
        """The folder's name."""
        return f"smollm2-135m-instruct-{_SUFFIXES[self.variant]}"

    def text(self) -> str:
        """What `recipe.json` holds; equal texts mean equal folders."""
        content: dict[str, Any] = {
            "version": VERSION,
            "variant": self.variant,
            "package": f"{wheel.PACKAGE}=={wheel.VERSION}",
            "wheel_sha256": wheel.SHA256,
            "gguf_sha256": wheel.GGUF_SHA256,
        }
        if self.variant == "awq":
            content["group_size"] = AWQ_GROUP_SIZE
        return json.dumps(content, indent=2) + "\n"
