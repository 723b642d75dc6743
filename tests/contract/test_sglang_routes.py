"""The routes of SGLang that callers may use, and what these take.

.venv-sglang/bin/python -m pytest tests/contract/test_sglang_routes.py
"""

from dataclasses import fields
from types import SimpleNamespace

import pytest

from handler.engine.request_fields import request_fields
from handler.request.sglang_input import CALLER_FIELDS, OWN_ROUTES
from tests.contract.routes import is_decided, post_form, source_paths

pytestmark = pytest.mark.filterwarnings("ignore")  # SGLang warns while it is imported


@pytest.mark.parametrize("path", source_paths("sglang.srt.entrypoints"))
def test_each_route_is_allowed_or_refused_on_purpose(path):
    """A route of a new version goes into a table of handler/request/routes.py."""
    assert is_decided(path)


# Addresses of processes and servers, what SGLang sets itself, and state between requests.
NOT_FOR_CALLERS = {
    "background",
    "bootstrap_host",
    "bootstrap_pair_key",
    "bootstrap_port",
    "bootstrap_room",
    "conversation_id",
    "custom_labels",
    "decision_layout",
    "decode_tp_size",
    "disagg_prefill_dp_rank",
    "embed_override_token_id",
    "embed_overrides",
    "encoder_urls",
    "external_trace_header",
    "http_worker_ipc",
    "kv_hints",
    "log_metrics",
    "lora_id",
    "mm_content_hashes",
    "mm_hashes",
    "multi_item_delimiter_indices",
    "need_wait_for_mm_inputs",
    "num_items_assigned",
    "positional_embed_overrides",
    "received_time",
    "return_bytes",
    "session_id",
    "session_params",
    "token_indices_to_pool",
}


def test_each_field_of_its_own_inputs_is_allowed_or_refused_on_purpose():
    """A field of a new version goes into CALLER_FIELDS, or here."""
    from sglang.srt.managers import io_struct

    names = {
        field.name
        for record in ("GenerateReqInput", "EmbeddingReqInput")
        for field in fields(getattr(io_struct, record))
    }
    assert names == CALLER_FIELDS | NOT_FOR_CALLERS
    assert not CALLER_FIELDS & NOT_FOR_CALLERS


def test_the_form_of_a_transcription_is_read(monkeypatch):
    """Lists and numbers as its route takes them."""
    from sglang.srt.entrypoints.http_server import app

    seen = {}

    async def transcribe(**values):
        seen.update(values)
        return {}

    serving = SimpleNamespace(create_transcription=transcribe)
    monkeypatch.setattr(app.state, "openai_serving_transcription", serving, raising=False)
    post_form(app)
    assert (seen["audio_data"], seen["model"], seen["language"]) == (b"RIFF", "served", None)
    assert (seen["timestamp_granularities"], seen["temperature"]) == (["word", "segment"], 0.5)
    assert seen["stream"] is False


def test_its_own_routes_are_known_by_their_inputs():
    """Its `/classify` takes no `input`, vLLM's does; that tells them apart."""
    from sglang.srt.entrypoints.http_server import app

    known = request_fields(app)
    assert known.keys() >= OWN_ROUTES
    assert not any("input" in known[path] for path in OWN_ROUTES)
    assert "input" in known["/v1/classify"]
