"""Which adapter serves which ENGINE."""

from collections.abc import Callable, Mapping

from handler.engine.protocol import Adapter
from handler.engine.sglang.adapter import SglangAdapter
from handler.engine.vllm.adapter import VllmAdapter
from handler.model.locate import Model
from handler.settings import Settings

Make = Callable[[Settings, Model, Mapping[str, str]], Adapter]
ADAPTERS: dict[str, Make] = {
    "vllm": VllmAdapter,
    "sglang": SglangAdapter,
}


def adapter_for(settings: Settings, model: Model, environ: Mapping[str, str]) -> Adapter:
    """Return the adapter of the engine that ENGINE names; no engine is imported yet."""
    return ADAPTERS[settings.engine](settings, model, environ)
