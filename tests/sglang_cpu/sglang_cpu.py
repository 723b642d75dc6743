"""What SGLang takes for granted of a machine with a GPU, made good before it is imported.

The environment's `sglang_cpu.pth` imports this module at each start of the interpreter.

- torchvision expects two operators of its own CUDA library, which a CPU build of torch cannot
  load: their schemas are defined.
- SGLang's LoRA layers pin their memory for a GPU's sake. Where nothing can be pinned, torch
  refuses: here it makes plain tensors.
"""

import functools
import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
MAKERS = ("tensor", "empty", "zeros", "ones", "arange", "full", "empty_like", "zeros_like")
libraries = []


def prepare() -> None:
    """Do what the module says."""
    import torch

    libraries.append(torch.library.Library("torchvision", "FRAGMENT"))
    for schema in SCHEMAS:
        libraries[0].define(schema)
    for name in MAKERS:
        setattr(torch, name, unpinned(getattr(torch, name)))
    torch.Tensor.pin_memory = lambda tensor, *_: tensor


def unpinned(make):
    """Return a maker of tensors that pins none."""

    @functools.wraps(make)
    def made(*values, **options):
        options.pop("pin_memory", None)
        return make(*values, **options)

    return made


class BeforeSglang(importlib.abc.MetaPathFinder):
    """Finds nothing; only sees that SGLang is being looked for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Prepare, once."""
        if fullname == "sglang" and not libraries:
            prepare()
        return None


sys.meta_path.insert(0, BeforeSglang())
