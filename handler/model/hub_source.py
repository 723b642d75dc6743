"""The hub as the last source of a model: what it has is listed first, and downloaded later.

All names that the settings give are listed before the first download, so that a wrong one costs no
download.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from handler.errors import ModelUnavailable
from handler.model import hub, mistral
from handler.model.checkpoint import CONFIG, index_of_weights, model_named_in_errors, shards
from handler.model.hub_cache import write_ref
from handler.model.hub_files import LORA_FILES, engine_files, no_model_reason
from handler.model.reference import ArtifactKind, HubReference

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubRepository:
    """A repository that the hub has, and that is to be downloaded.

    Attributes:
        reference: as the settings name it.
        kind: what it is used as.
        listing: its files at a commit.
        cache: the hub cache for the download.
        retry_waits_seconds: the waits between failures of the hub.
    """

    reference: HubReference
    kind: ArtifactKind
    listing: hub.RepoListing
    cache: Path
    retry_waits_seconds: Sequence[float]

    @classmethod
    def find(
        cls,
        reference: HubReference,
        kind: ArtifactKind,
        cache: Path,
        retry_waits_seconds: Sequence[float],
    ) -> "HubRepository":
        """Ask the hub for the repository's files.

        Raises:
            ModelUnavailable, InvalidSetting: the hub's reason in one sentence; or it cannot be used
                as that kind.
        """
        hub.import_client()
        listing = hub.list_repository(reference, retry_waits_seconds)
        # The cache uses the hub's spelling of the name, as other programs do.
        if listing.repository != reference.name:
            log.info("%s is called %s on the hub", reference.name, listing.repository)
        repository = cls(reference, kind, listing, cache, retry_waits_seconds)
        repository._selected(indexed=None)
        return repository

    @property
    def name(self) -> str:
        """Its name in the settings."""
        return self.reference.name

    def download(self) -> Path:
        """Download what an engine loads of it into the cache, and return its folder.

        Raises:
            ModelUnavailable: the hub's reason, or a full disk, in one sentence; or a file that its
                index names is missing.
        """
        indexed = None
        index = index_of_weights(self._names(), self.reference.mistral_requested)
        if self.kind == "model" and index:
            snapshot = self._download([index])
            with model_named_in_errors(self.name):
                indexed = shards(snapshot, index)
        path = self._download(self._selected(indexed))
        try:
            write_ref(self.cache, self._on_hub(), self.listing.commit)
        except OSError as error:  # only costs the next start a request to the hub
            log.warning("%s: its commit was not recorded: %s", self.name, error.strerror)
        return path

    def _names(self) -> list[str]:
        return [file.path for file in self.listing.files]

    def _selected(self, indexed: Collection[str] | None) -> list[str]:
        """Return the files that an engine loads.

        Args:
            indexed: the files in the index of the weights, None if it is unknown.
        """
        names, mistral_requested = self._names(), self.reference.mistral_requested
        selected = engine_files(self.kind, names, indexed, mistral_requested=mistral_requested)
        if reason := _incomplete_reason(self.name, self.kind, names, selected, indexed):
            raise ModelUnavailable(f"{reason}.")
        return selected

    def _download(self, names: Collection[str]) -> Path:
        return hub.download_files(
            self._on_hub(),
            self.listing.commit,
            [file for file in self.listing.files if file.path in names],
            cache=self.cache,
            retry_waits_seconds=self.retry_waits_seconds,
        )

    def _on_hub(self) -> HubReference:
        """Return the reference in the hub's spelling, which the cache has too."""
        return replace(self.reference, name=self.listing.repository)


def _incomplete_reason(
    repository: str,
    kind: ArtifactKind,
    names: Collection[str],
    selected: Sequence[str],
    indexed: Collection[str] | None,
) -> str | None:
    """Return why a repository cannot be used as a model or adapter, None if it can."""
    if kind == "lora":
        missing = [name for name in LORA_FILES if name not in names]
        return f"{repository} has no {missing[0]}: it is not a LoRA adapter" if missing else None
    if missing := sorted(set(indexed or ()) - set(names)):
        return f"{repository} has no {missing[0]}, which is in its index"
    has_weights = any(name.endswith(".safetensors") for name in selected)
    if kind == "model" and not (has_weights and {CONFIG, mistral.PARAMS}.intersection(names)):
        return no_model_reason(repository, names)
    return None
