"""How long the platform must wait for a worker that downloads its model, draft and adapters.

A worker that is not ready after 7 minutes counts as unhealthy and is replaced, which begins the
download again, unless RUNPOD_INIT_TIMEOUT says more.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from pydantic import SecretStr

from builder.cli import Console
from builder.deploy.environment import SETTINGS, is_reference
from handler.errors import StartError
from handler.model.draft import draft_in_config
from handler.model.hub import list_repository
from handler.model.hub_files import engine_files
from handler.model.lora import SETTING as LORA_MODULES
from handler.model.lora import parse_lora_modules
from handler.model.reference import ArtifactKind, HubReference

INIT_TIMEOUT = "RUNPOD_INIT_TIMEOUT"
PLATFORM_SECONDS = 420  # without the variable
DOWNLOAD_BYTES_PER_SECOND = 50_000_000  # of a busy host; most are several times as fast
ENGINE_SECONDS = 300  # import, weights, compilation, CUDA graphs

DOWNLOADS = (
    "model_name",
    "model_revision",
    "speculative_model",
    "speculative_model_revision",
    "speculative_config",
    "lora_modules",
)

Sizes = Callable[[Mapping[str, str]], int | None]


def init_timeout_seconds(download_bytes: int) -> int | None:
    """Return RUNPOD_INIT_TIMEOUT in whole minutes, None if the platform's own time is enough."""
    minutes = -(-(ENGINE_SECONDS + download_bytes // DOWNLOAD_BYTES_PER_SECOND) // 60)
    return minutes * 60 if minutes * 60 > PLATFORM_SECONDS else None


def hub_sizes(environ: Mapping[str, str], console: Console) -> Sizes:
    """Return a function that asks the hub for the bytes of what an environment names.

    Args:
        environ: of this process, whose HF_TOKEN is used if the workers' is not at hand.
        console: is told why the hub does not say it.
    """

    def size(values: Mapping[str, str]) -> int | None:
        token = _first(values, "hf_token") or _first(environ, "hf_token")
        total = 0
        try:
            for kind, reference in _references(values):
                if reference.name.startswith(("/", ".", "~")):
                    continue
                reference = replace(reference, token=SecretStr(token) if token else None)
                listing = list_repository(reference.resolve_url(), retry_waits_seconds=())
                sizes = {file.path: file.bytes for file in listing.files}
                total += sum(sizes[path] for path in engine_files(kind, sizes))
        except StartError as error:
            console.print(f"note: {INIT_TIMEOUT} is not set, the model's size is unknown: {error}")
            return None
        return total

    return size


def downloads_of(values: Mapping[str, str]) -> tuple[str, ...]:
    """Return the settings of an environment that name what is downloaded; the empty tuple if none.

    Two environments whose tuples are equal download the same.
    """
    given = tuple(_first(values, setting) or "" for setting in DOWNLOADS)
    return given if any(given) else ()


def _references(values: Mapping[str, str]) -> Iterator[tuple[ArtifactKind, HubReference]]:
    """Yield the repositories and folders of a worker with this environment.

    Raises:
        InvalidSetting: SPECULATIVE_CONFIG or LORA_MODULES is invalid.
    """
    model, revision, draft, draft_revision, config, adapters = (
        _first(values, setting) for setting in DOWNLOADS
    )
    if model:
        yield "model", HubReference(model, revision)
    if config:
        if reference := draft_in_config(config):
            yield "model", reference
    elif draft:
        yield "model", HubReference(draft, draft_revision, "SPECULATIVE_MODEL")
    for spec in parse_lora_modules(adapters or ""):
        yield "lora", HubReference(spec.source, spec.revision, LORA_MODULES)


def _first(values: Mapping[str, str], setting: str) -> str | None:
    """Return the value of a setting under any of its names, if it is not a secret's name."""
    found = (values[name].strip() for name in SETTINGS[setting] if values.get(name))
    return next((value for value in found if value and not is_reference(value)), None)
