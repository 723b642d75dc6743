"""The thread of a download."""

import builtins

import pytest

from handler.model.reference import HubReference
from handler.model.transfer import Transfer


def test_whatever_ends_the_thread_ends_the_download(monkeypatch):
    """Also what fails before the first byte: nobody waits for the next one."""
    imported = builtins.__import__

    def fail(name, *args, **named):
        if name == "huggingface_hub":
            raise ImportError("planned")
        return imported(name, *args, **named)

    transfer = Transfer(HubReference("org/m"), "0" * 40, [], cache=None, folder=None)
    monkeypatch.setattr("handler.model.transfer.abort_xet", lambda: None)
    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(ImportError, match="planned"):
        transfer.run()
