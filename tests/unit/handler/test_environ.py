"""What is exported to libraries and child processes."""

import os

from handler.environ import export


def test_defaults_are_exported_and_do_not_replace_what_the_user_set(monkeypatch):
    """Names to remove go, whoever set them."""
    monkeypatch.setenv("FROM_USER", "user")
    monkeypatch.setenv("API_KEY_OF_ENGINE", "key")
    monkeypatch.delenv("NEW_DEFAULT", raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    export({"FROM_USER": "default", "NEW_DEFAULT": "1"}, remove=["API_KEY_OF_ENGINE", "NOT_SET"])
    assert (os.environ["FROM_USER"], os.environ["NEW_DEFAULT"]) == ("user", "1")
    assert "API_KEY_OF_ENGINE" not in os.environ
