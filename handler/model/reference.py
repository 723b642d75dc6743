"""A repository on the hub, as a setting or an argument names it."""

from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

# A draft model is a model as well; code is what another repository's configuration names.
ArtifactKind = Literal["model", "tokenizer", "lora", "code"]


@dataclass(frozen=True)
class HubReference:
    """A repository, and the setting that an error message has to name.

    Attributes:
        name: org/name.
        revision: branch, tag or commit; None is `main`.
        setting: the variable or build argument that holds the name.
        token: for gated and private repositories.
        token_advice: what to add to HF_TOKEN in error messages.
        mistral_requested: whether the settings ask for Mistral's own format.
    """

    name: str
    revision: str | None = None
    setting: str = "MODEL_NAME"
    token: SecretStr | None = None
    token_advice: str = ""
    mistral_requested: bool = False

    @property
    def revision_setting(self) -> str:
        """The variable or build argument that holds the revision."""
        return f"{self.setting.removesuffix('_NAME')}_REVISION"

    def plain_token(self) -> str | None:
        """Return the token in plain text, for the hub's client only."""
        return self.token.get_secret_value() if self.token else None
