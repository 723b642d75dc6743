"""An adapter of vLLM after its check of settings and flags, without a start of the engine."""

import os
from pathlib import Path

from handler.engine.vllm.adapter import VllmAdapter
from handler.model.resolve import resolve_model
from handler.settings.environ import load_settings


def checked_vllm_adapter(folder: Path, **environ: str) -> VllmAdapter:
    """Return the adapter of a model after its check, with the flags that the parser made."""
    environ["MODEL_NAME"] = str(folder)
    settings = load_settings(environ)
    adapter = VllmAdapter(settings, resolve_model(settings), environ)
    before = dict(os.environ)
    try:
        adapter.import_engine(settings, environ)
        adapter.check_flags()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return adapter
