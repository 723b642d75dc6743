"""What the worker replaces and reads in huggingface-hub: see the table of its `hub_patches`.

.venv/bin/python -m pytest tests/contract/test_huggingface_hub.py
"""

import inspect
from importlib.metadata import version

import httpx
import huggingface_hub
import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import _detect_agent, _headers, _http, _xet, http_backoff

from handler.model.hub_patches import (
    PARTIAL_SUFFIX,
    abort_xet,
    keep_to_own_requests,
    rate_limits_raised,
    replace_constants,
    turn_xet_off,
)


@pytest.fixture
def rate_limited(monkeypatch):
    """Answer each request with 429 and a wait of an hour; list requests and waits."""
    asked_and_waited = []

    def answer(request):
        asked_and_waited.append("asked")
        return httpx.Response(429, headers={"retry-after": "3600"}, request=request)

    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(_http, "_GLOBAL_CLIENT", client)
    monkeypatch.setattr(_http.time, "sleep", asked_and_waited.append)
    return asked_and_waited


def test_the_version_is_the_one_of_the_table():
    assert version("huggingface-hub").startswith("1.33.")


def test_replaced_switch_of_xet(monkeypatch):
    """A download looks at the constant, and not at the variable."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    assert (turn_xet_off(), constants.HF_HUB_DISABLE_XET, turn_xet_off()) == (True, True, False)
    assert "constants.HF_HUB_DISABLE_XET" in inspect.getsource(file_download)


def test_replaced_cache_and_offline_mode(monkeypatch):
    """They are looked at in the constants, at each use."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/before")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    replace_constants(HF_HUB_CACHE="/after", HF_HUB_OFFLINE=True)
    assert (constants.HF_HUB_CACHE, huggingface_hub.is_offline_mode()) == ("/after", True)
    assert "cache_dir = constants.HF_HUB_CACHE" in inspect.getsource(file_download)


def test_replaced_list_of_agents(monkeypatch):
    """Headers are made without a request, which they otherwise are not."""
    asked = []
    monkeypatch.setattr(_detect_agent, "_registry", None)
    monkeypatch.setattr(_detect_agent, "_load_registry", lambda: asked.append("asked") or {})
    _headers.build_hf_headers(token=False)
    assert asked == ["asked"]
    monkeypatch.setattr(_detect_agent, "_registry", None)
    keep_to_own_requests()
    _headers.build_hf_headers(token=False)
    assert asked == ["asked"]


def test_replaced_event_hooks(rate_limited):
    client = huggingface_hub.get_session()
    before = client.event_hooks
    with rate_limits_raised(), pytest.raises(HfHubHTTPError, match="429"):
        http_backoff("GET", "http://hub.example", max_retries=1)
    assert rate_limited == ["asked"]
    assert client.event_hooks == before


def test_huggingface_hub_waits_as_long_as_an_answer_429_says(rate_limited):
    with pytest.raises(HfHubHTTPError, match="429"):
        http_backoff("GET", "http://hub.example", max_retries=1)
    assert rate_limited == ["asked", 3601, "asked"]


def test_read_abort_xet_session(monkeypatch):
    aborted = []
    monkeypatch.setattr(_xet, "abort_xet_session", lambda: aborted.append(True))
    abort_xet()
    assert aborted == [True]
    assert "sigint_abort" in inspect.getsource(_xet)


def test_read_suffix_of_partial_files():
    assert f'"{PARTIAL_SUFFIX}"' in inspect.getsource(file_download)


def test_read_an_update_per_chunk():
    assert "progress.update(len(chunk))" in inspect.getsource(file_download.http_get)
    assert "tqdm_class" in inspect.signature(huggingface_hub.snapshot_download).parameters
