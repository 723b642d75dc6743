"""Python runs this at each start where the folder is in PYTHONPATH: SGLang finds simulated GPUs.

SGLang asks torch for the GPUs already while it is imported, in each of its processes.
"""

import importlib.abc
import sys


class BeforeSglang(importlib.abc.MetaPathFinder):
    """Finds nothing; prepares torch when SGLang is first looked for."""

    def find_spec(self, fullname, path, target=None):
        if fullname == "sglang":
            sys.meta_path.remove(self)
            from simulated_gpu import torch_cuda

            torch_cuda.install()
        return None


sys.meta_path.insert(0, BeforeSglang())
