"""The tests of this folder import SGLang: tests/integration/handler/engine/test_sglang.py runs them
in its Python environment, and only there are they collected.
"""

import warnings
from importlib.util import find_spec

collect_ignore_glob = []
if find_spec("sglang"):
    with warnings.catch_warnings(action="ignore"):
        import sglang.srt.entrypoints.openai.serving_chat  # noqa: F401
else:
    collect_ignore_glob = ["test_*.py"]
