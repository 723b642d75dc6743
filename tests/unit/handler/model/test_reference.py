"""A repository's name, also as it is copied out of a browser."""

import pytest

from handler.errors import InvalidSetting
from handler.model.reference import HubReference


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("https://huggingface.co/org/name", "org/name", None),
        ("http://www.huggingface.co/org/name/", "org/name", None),
        ("https://huggingface.co/org/na.me.git", "org/na.me", None),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F1", "org/name", "refs/pr/1"),
        ("https://huggingface.co/org/name/blob/v1/config.json", "org/name", "v1"),
        ("https://hf.co/org/name?library=vllm#usage", "org/name", None),
        ("hf.co/org/name", "org/name", None),
        ("hf://org/name", "org/name", None),
        ("org/name/", "org/name", None),
        ("/models/name/", "/models/name", None),
        ("/", "/", None),
        ("org/name", "org/name", None),
        ("org/name:v1", "org/name:v1", None),
        (
            "https://huggingface.co/datasets/org/name",
            "https://huggingface.co/datasets/org/name",
            None,
        ),
        ("https://example.com/org/name", "https://example.com/org/name", None),
    ],
)
def test_a_copied_url_of_the_hub_names_a_repository(text, name, revision):
    found = HubReference(text).resolve_url()
    assert (found.name, found.revision) == (name, revision)


def test_a_url_may_name_the_revision_in_the_settings():
    url = "https://huggingface.co/org/name/tree/v1"
    assert HubReference(url, "v1").resolve_url() == HubReference("org/name", "v1")
    with pytest.raises(InvalidSetting) as caught:
        HubReference(url, "v2").resolve_url()
    assert str(caught.value) == ("MODEL_NAME names the revision 'v1', and MODEL_REVISION is 'v2'.")


@pytest.mark.parametrize(
    ("setting", "revision_setting"),
    [
        ("MODEL_NAME", "MODEL_REVISION"),
        ("SPECULATIVE_MODEL", "SPECULATIVE_MODEL_REVISION"),
        ("LORA_MODULES", "revision in LORA_MODULES"),
        ("SPECULATIVE_CONFIG", "revision in SPECULATIVE_CONFIG"),
    ],
)
def test_the_place_of_the_revision_is_named(setting, revision_setting):
    assert HubReference("org/name", setting=setting).revision_setting == revision_setting
