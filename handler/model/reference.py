"""A repository on the hub, as a setting or an argument names it."""

from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

ArtifactKind = Literal["model", "tokenizer", "lora"]  # a draft model is a model as well


@dataclass(frozen=True)
class HubReference:
    """A repository, and the setting that an error message has to name.

    Attributes:
        name: org/name.
        revision: branch, tag or commit; None is `main`.
        setting: the variable or build argument that holds the name.
        token: for gated and private repositories.
    """

    name: str
    revision: str | None = None
    setting: str = "MODEL_NAME"
    token: SecretStr | None = None

    @property
    def revision_setting(self) -> str:
        """The variable or build argument that holds the revision."""
        return f"{self.setting.removesuffix('_NAME')}_REVISION"

    def plain_token(self) -> str | None:
        """Return the token in plain text, for the hub's client only."""
        return self.token.get_secret_value() if self.token else None
