"""Two operators that torchvision expects of its own CUDA library, which a CPU torch cannot load.

SGLang imports torchvision. The environment's `sglang_cpu.pth` imports this module at each start of
the interpreter; the operators are defined when torchvision is about to be imported.
"""

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
libraries = []


class BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing; only sees that torchvision is being looked for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Define the operators' schemas, once."""
        if fullname == "torchvision" and not libraries:
            import torch

            libraries.append(torch.library.Library("torchvision", "FRAGMENT"))
            for schema in SCHEMAS:
                libraries[0].define(schema)
        return None


sys.meta_path.insert(0, BeforeTorchvision())
