"""A repository on the hub, as a setting or an argument names it."""

import re
from dataclasses import dataclass, replace
from typing import Literal, Self
from urllib.parse import unquote

from pydantic import SecretStr

from handler.errors import InvalidSetting

# A draft model is a model as well; code is what another repository's configuration names.
ArtifactKind = Literal["model", "tokenizer", "lora", "code"]

HUB_URL = re.compile(
    r"(?:hf://|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/)"
    r"(?P<name>[^/?#]+/[^/?#]+?)(?:\.git)?"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+)[^?#]*)?/*(?:[?#].*)?"
)


@dataclass(frozen=True)
class HubReference:
    """A repository, and the setting that an error message has to name.

    Attributes:
        name: org/name.
        revision: branch, tag or commit; None is `main`.
        setting: the variable or build argument that holds the name.
        token: for gated and private repositories.
        token_advice: text that error messages add after HF_TOKEN.
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
        """The variable or build argument that holds the revision, or the key in a JSON setting."""
        stem = self.setting.removesuffix("_NAME")
        is_plain = stem != self.setting or stem.endswith("MODEL")
        return f"{stem}_REVISION" if is_plain else f"revision in {self.setting}"

    def resolve_url(self) -> Self:
        """Return the repository that a copied URL of the hub names; a plain name stays as it is.

        Raises:
            InvalidSetting: the URL names another revision than the settings.
        """
        page = HUB_URL.fullmatch(self.name)
        if page is None:
            return replace(self, name=self.name.rstrip("/") or self.name)
        in_url = unquote(page["revision"]) if page["revision"] else None
        if in_url and self.revision not in (None, in_url):
            raise InvalidSetting(
                f"{self.setting} names the revision {in_url!r}, and {self.revision_setting} is "
                f"{self.revision!r}."
            )
        return replace(self, name=page["name"], revision=in_url or self.revision)

    def plain_token(self) -> str | None:
        """Return the token in plain text, for the hub's client only."""
        return self.token.get_secret_value() if self.token else None
