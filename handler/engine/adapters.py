"""The adapter of each ENGINE."""

from collections.abc import Callable, Mapping

from handler.engine.interface import EngineAdapter
from handler.engine.sglang.adapter import SglangAdapter
from handler.engine.vllm.adapter import VllmAdapter
from handler.model.resolve import ResolvedModel
from handler.settings import Settings

CreateAdapter = Callable[[Settings, ResolvedModel, Mapping[str, str]], EngineAdapter]
ADAPTERS: dict[str, CreateAdapter] = {
    "vllm": VllmAdapter,
    "sglang": SglangAdapter,
}


def adapter_for(
    settings: Settings, model: ResolvedModel, environ: Mapping[str, str]
) -> EngineAdapter:
    """Return the adapter of the engine that ENGINE names, without importing the engine."""
    return ADAPTERS[settings.engine](settings, model, environ)
