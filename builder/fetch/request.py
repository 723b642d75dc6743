"""A fetch request: a repository, its revision, the files to fetch, and the token."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from pydantic import SecretStr

from builder.errors import InvalidArgument
from handler.model.reference import HubReference
from handler.settings.types import check_token
from handler.settings.variables import clean_value, is_no_value

Kind = Literal["model", "draft", "tokenizer", "lora"]
# The setting or build argument that names a repository of each kind, for error messages.
NAME_SETTINGS: dict[Kind, str] = {
    "model": "MODEL_NAME",
    "draft": "DRAFT_MODEL_NAME",
    "tokenizer": "TOKENIZER_NAME",
    "lora": "LORA_MODULES",
}
TOKEN_ADVICE = (
    " (docker build takes it as a secret: --secret id=HF_TOKEN,env=HF_TOKEN; a --build-arg is not "
    "read)"
)
BUILD_SECRET = Path("/run/secrets/HF_TOKEN")  # where Docker mounts the build secret of this name


@dataclass(frozen=True)
class FetchRequest:
    """One repository to fetch.

    Attributes:
        repository: org/name on the hub.
        revision: a branch, tag or commit.
        kind: a draft may be unquantized, a tokenizer has no weights, a LoRA adapter no config.json.
        quantization: `auto` for AWQ or FP8, `none` for an unquantized checkpoint, or a method.
        patterns: glob patterns of the files to fetch; empty for the files that an engine loads.
        mistral_requested: whether Mistral's own format is fetched if there are both formats.
        token: for gated and private repositories.
    """

    repository: str
    revision: str = "main"
    kind: Kind = "model"
    quantization: str = "auto"
    patterns: tuple[str, ...] = ()
    mistral_requested: bool = False
    token: SecretStr | None = None

    def resolve_url(self) -> Self:
        """Return the request for the repository that a copied URL of the hub names."""
        given = None if self.revision == "main" else self.revision
        reference = replace(self.reference(), revision=given).resolve_url()
        return replace(self, repository=reference.name, revision=reference.revision or "main")

    def reference(self) -> HubReference:
        """Return the repository with the setting that names it."""
        return HubReference(
            self.repository,
            self.revision,
            setting=NAME_SETTINGS[self.kind],
            token=self.token,
            token_advice=TOKEN_ADVICE,
            mistral_requested=self.mistral_requested,
        )


def hub_token(environ: Mapping[str, str]) -> SecretStr | None:
    """Return HF_TOKEN from the environment, else from the Docker build secret.

    Raises:
        InvalidArgument: it is not a valid token.
    """
    token, name = clean_value(environ.get("HF_TOKEN", "")), "HF_TOKEN"
    if (not token or is_no_value(token)) and BUILD_SECRET.is_file():
        token = clean_value(BUILD_SECRET.read_bytes().decode("latin-1"))
        name = f"the secret {BUILD_SECRET.name}"
    try:
        return check_token(SecretStr(token)) if token and not is_no_value(token) else None
    except ValueError as error:
        raise InvalidArgument(f"{name} must be {error}.") from error
