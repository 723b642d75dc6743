"""Settings → the checkpoint to serve, with its tokenizer, draft model and LoRA adapters.

Requests choose the model by its repository's name, wherever `sources.py` finds the files.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from handler.errors import InvalidSetting
from handler.model import mistral
from handler.model.checkpoint import has_weights, model_named_in_errors, quantization_of
from handler.model.dependencies import find_dependencies, link_into_cache
from handler.model.draft import (
    DRAFT_MODEL_METHODS,
    check_speculative_settings,
    check_vocabulary,
    draft_in_config,
    translates_vocabularies,
)
from handler.model.hub_cache import caches_in_environ, same_repository
from handler.model.hub_patches import replace_constants
from handler.model.lora import LoraAdapter, locate_adapters, read_adapter
from handler.model.manifest import read_manifest
from handler.model.quantization import check_quantization
from handler.model.reference import HubReference
from handler.model.sources import FoundFiles, Located, ModelSources
from handler.settings.environ import export
from handler.settings.fields import Settings

log = logging.getLogger(__name__)

LINKED_CACHE = Path("hub")  # below CACHE_ROOT


@dataclass(frozen=True)
class ResolvedModel:
    """A checkpoint on disk.

    Attributes:
        path: the folder with config.json.
        name: the repository, or the folder's name.
        quantization: the method in the checkpoint's configuration, None if unquantized.
        source: where it was found, for the log.
        is_local: whether all of it was found without the hub.
        tokenizer: the folder of a separate tokenizer, or None.
        draft: the folder of the draft model for speculative decoding, or None.
        adapters: LoRA adapters that are served with it.
        environment: variables with which the engine finds the model's dependencies.
    """

    path: Path
    name: str
    quantization: str | None
    source: str
    is_local: bool = True
    tokenizer: Path | None = None
    draft: Path | None = None
    adapters: tuple[LoraAdapter, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def has_weights(self) -> bool:
        """Whether the folder has weights in any format."""
        return has_weights(self.path)


def model_sources(
    settings: Settings,
    environ: Mapping[str, str],
    before_download: Callable[[], None] = lambda: None,
) -> ModelSources:
    """Return the sources of models: the image, the user's caches, the hub."""
    return ModelSources(
        settings.base_path,
        settings.hf_token,
        user_caches=caches_in_environ(environ),
        before_download=before_download,
    )


def export_environment(model: ResolvedModel) -> None:
    """Export the variables with which the engine finds all files, and leaves the hub alone.

    huggingface-hub reads them at its import. Where that is over they are set there too: the engines
    look there, and this process, a fork of it and a spawned one have to do the same.
    """
    if model.environment:
        export({}, remove=model.environment)  # even if the user has set it
        export(model.environment)
        replace_constants(**model.environment)
    if model.is_local and "HF_HUB_OFFLINE" not in os.environ:
        export({"HF_HUB_OFFLINE": "1"})
        replace_constants(HF_HUB_OFFLINE=True)


def resolve_model(
    settings: Settings,
    sources: ModelSources | None = None,
    environ: Mapping[str, str] = MappingProxyType({}),
) -> ResolvedModel:
    """Find everything that the settings name, downloaded from the hub if necessary.

    Args:
        settings: the worker's settings.
        sources: where to look; by default all sources.
        environ: may have flags of the engine that select Mistral's own format.

    Raises:
        InvalidSetting: MODEL_NAME is missing, or a setting contradicts the checkpoint.
        ModelUnavailable: no source has it, with the hub's reason in one sentence.
    """
    sources = sources or model_sources(settings, environ)
    mistral_requested = mistral.is_requested(environ, settings.engine_args)
    # All that the settings name is located before the first of it is downloaded: a wrong name, or a
    # gated repository, is known within a second.
    model_on = _locate_model(settings, sources, mistral_requested)
    tokenizer_on = _locate_tokenizer(settings, sources, model_on)
    draft_on = _locate_draft(settings, sources)
    adapters_on = locate_adapters(
        settings.lora_modules, sources, {model_on.name, *settings.model_names}
    )
    model = sources.fetch(model_on)
    tokenizer = sources.fetch(tokenizer_on) if tokenizer_on else None
    draft = sources.fetch(draft_on) if draft_on else None
    with model_named_in_errors(model.name):
        quantization = quantization_of(model.path)
    check_quantization(settings.quantization, quantization, model.name)
    if draft and not translates_vocabularies(settings.speculative_config):
        with model_named_in_errors(draft.name):
            check_vocabulary(draft.name, draft.path, model.path)
    adapters = tuple(
        read_adapter(name, sources.fetch(located), model.path)
        for name, located in adapters_on.items()
    )
    named = [
        needed
        for found in (model, tokenizer, draft)
        if found
        for needed in find_dependencies(found, sources, is_draft=found is draft)
    ]
    return ResolvedModel(
        path=model.path,
        name=model.name,
        quantization=quantization,
        source=model.source,
        is_local=all(
            found.is_local for found in (model, tokenizer, draft, *adapters, *named) if found
        ),
        tokenizer=tokenizer.path if tokenizer else None,
        draft=draft.path if draft else None,
        adapters=adapters,
        environment=_link_dependencies(named, settings.cache_root) if named else {},
    )


def _link_dependencies(named: list[FoundFiles], cache_root: Path) -> dict[str, str]:
    """Link the dependencies into one hub cache; return the variable that names it."""
    cache = cache_root.expanduser() / LINKED_CACHE
    try:
        link_into_cache(named, cache)
    except OSError:  # a read-only file system
        cache = Path(tempfile.mkdtemp(prefix="llm-worker-hub-"))
        link_into_cache(named, cache)
    return {"HF_HUB_CACHE": str(cache)}


def _locate_model(settings: Settings, sources: ModelSources, mistral_requested: bool) -> Located:
    name, baked = settings.model_name, read_manifest(sources.baked / "model")
    if name is None:
        if baked is None:
            raise InvalidSetting(
                "MODEL_NAME is not set: give a hub repository such as "
                "Qwen/Qwen2.5-7B-Instruct-AWQ or a local folder."
            )
        name = baked.repository
    reference = HubReference(name, settings.model_revision, mistral_requested=mistral_requested)
    reference = reference.resolve_url()
    if baked and not same_repository(reference.name, baked.repository):
        log.warning("MODEL_NAME=%s is not the model in the image, %s", name, baked.repository)
    return sources.locate(reference)


def _locate_tokenizer(settings: Settings, sources: ModelSources, model: Located) -> Located | None:
    """Locate TOKENIZER_NAME, or without it the tokenizer that was baked with the model."""
    name = settings.tokenizer_name
    if name is None:
        baked = read_manifest(sources.baked / "tokenizer")
        is_baked = isinstance(model, FoundFiles) and model.path == sources.baked / "model"
        if baked is None or not is_baked:
            return None
        name = baked.repository
    reference = HubReference(name, settings.tokenizer_revision, "TOKENIZER_NAME")
    return sources.locate(reference, "tokenizer")


def _locate_draft(settings: Settings, sources: ModelSources) -> Located | None:
    """Locate the draft model in the settings, or without a name the baked one."""
    method, name = settings.speculative_method, settings.speculative_model
    config = settings.speculative_config
    check_speculative_settings(method, name, settings.num_speculative_tokens, config)
    if config:
        reference = draft_in_config(config)
        return sources.locate(reference) if reference else None
    if method not in DRAFT_MODEL_METHODS:
        return None
    if name is None:
        baked = read_manifest(sources.baked / "draft")
        if baked is None:
            raise InvalidSetting(
                f"SPECULATIVE_METHOD={method} needs a SPECULATIVE_MODEL, or an image that was "
                "built with a DRAFT_MODEL_NAME."
            )
        name = baked.repository
    return sources.locate(
        HubReference(name, settings.speculative_model_revision, "SPECULATIVE_MODEL")
    )
