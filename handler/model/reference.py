"""A repository as somebody named it."""

import re
from dataclasses import dataclass

from pydantic import SecretStr


@dataclass(frozen=True)
class HubReference:
    """What is looked for, and the setting that an error has to name.

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
        """Return the token itself, for the client alone."""
        return self.token.get_secret_value() if self.token else None


def one_word(secret: SecretStr) -> SecretStr:
    """Refuse what cannot be sent as a token, such as two lines of a file."""
    if not re.fullmatch(r"[\x21-\x7e]+", secret.get_secret_value()):
        raise ValueError("one word without spaces or line breaks")
    return secret
