"""Which checkpoint is served: the model that the settings name, its tokenizer and its draft model.

The name that callers use is the repository's, wherever its files lie: `places.py` finds those.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from handler.engine import speculative
from handler.errors import InvalidSetting
from handler.model import lora, manifest
from handler.model.checkpoint import check_quantization, has_weights, quantization_of
from handler.model.lora import LoraAdapter
from handler.model.reference import HubReference
from handler.model.sources import BAKED, FoundFiles, find, naming
from handler.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResolvedModel:
    """A checkpoint on disk.

    Attributes:
        path: the folder with config.json.
        name: the repository's name, or the folder's.
        quantization: the method in the checkpoint's own config, None for an unquantized one.
        source: where it was found, for the log.
        is_local: whether it, its tokenizer and its draft were found without asking the hub.
        tokenizer: the folder of another tokenizer than its own, or None.
        adapters: LoRA adapters that are served beside it.
        draft: the folder of the draft model for speculative decoding, or None.
    """

    path: Path
    name: str
    quantization: str | None
    source: str
    is_local: bool = True
    tokenizer: Path | None = None
    draft: Path | None = None
    adapters: tuple[LoraAdapter, ...] = ()

    def has_weights(self) -> bool:
        """Say whether a file of weights lies in the folder."""
        return has_weights(self.path)


def locate(settings: Settings, baked: Path = BAKED) -> ResolvedModel:
    """Find the weights that the settings name, fetching them from the hub if need be.

    Raises:
        InvalidSetting: MODEL_NAME is missing, or QUANTIZATION contradicts the checkpoint.
        ModelUnavailable: they are nowhere, with the hub's reason in one sentence.
    """
    found = _model(settings, baked)
    others = [_tokenizer(settings, baked, found), _draft(settings, baked)]
    with naming(found.name):
        quantization = quantization_of(found.path)
    check_quantization(settings.quantization, quantization, found.name)
    if others[1] and not speculative.mixes_vocabularies(settings.speculative_config):
        with naming(others[1].name):
            speculative.check_vocabulary(others[1].name, others[1].path, found.path)
    tokenizer, draft = (other.path if other else None for other in others)
    adapters = lora.locate(settings, baked)
    lora.check_names(adapters, {found.name, settings.served_model_name})
    return ResolvedModel(
        found.path,
        found.name,
        quantization,
        found.source,
        is_local=all(other.is_local for other in (found, *others, *adapters) if other),
        tokenizer=tokenizer,
        draft=draft,
        adapters=adapters,
    )


def _model(settings: Settings, baked: Path) -> FoundFiles:
    name, in_image = settings.model_name, manifest.read(baked / "model")
    if name is None:
        if in_image is None:
            raise InvalidSetting(
                "MODEL_NAME is not set: give a hub repository such as "
                "Qwen/Qwen2.5-7B-Instruct-AWQ or a local folder."
            )
        name = in_image.repository
    elif in_image and name != in_image.repository:
        log.warning("MODEL_NAME=%s is not the model in the image, %s", name, in_image.repository)
    return find(settings, baked, HubReference(name, settings.model_revision))


def _tokenizer(settings: Settings, baked: Path, model: FoundFiles) -> FoundFiles | None:
    """Find TOKENIZER_NAME; without it a tokenizer that was baked with the model is meant."""
    name, revision = settings.tokenizer_name, settings.tokenizer_revision
    if name is None:
        in_image = manifest.read(baked / "tokenizer")
        if in_image is None or model.path != baked / "model":
            return None
        name = in_image.repository
    return find(
        settings, baked, HubReference(name, revision, "TOKENIZER_NAME"), content="tokenizer"
    )


def _draft(settings: Settings, baked: Path) -> FoundFiles | None:
    """Find the draft model that the settings name; without a name the baked one is meant."""
    method, config = settings.speculative_method, settings.speculative_config
    speculative.check(method, settings.speculative_model, settings.num_speculative_tokens, config)
    if config:
        named = speculative.model_in(config)
        return find(settings, baked, HubReference(*named, "SPECULATIVE_CONFIG")) if named else None
    if method not in speculative.WITH_MODEL:
        return None
    name, revision = settings.speculative_model, settings.speculative_model_revision
    if name is None:
        in_image = manifest.read(baked / "draft")
        if in_image is None:
            raise InvalidSetting(
                f"SPECULATIVE_METHOD={method} needs a SPECULATIVE_MODEL, or an image that was "
                "built with a DRAFT_MODEL_NAME."
            )
        name = in_image.repository
    return find(settings, baked, HubReference(name, revision, "SPECULATIVE_MODEL"))
