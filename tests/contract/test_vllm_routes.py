"""The routes of vLLM that callers may use, and what these take.

.venv/bin/python -m pytest tests/contract/test_vllm_routes.py
"""

from typing import Annotated

import pytest
from fastapi import FastAPI, Form

from handler.engine.request_fields import request_fields
from tests.contract.routes import FORM_ROUTE, is_decided, post_form, source_paths

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported


@pytest.mark.parametrize("path", source_paths("vllm.entrypoints"))
def test_each_route_is_allowed_or_refused_on_purpose(path):
    """A route of a new version goes into a table of handler/request/routes.py."""
    assert is_decided(path)


def test_the_form_of_a_transcription_is_read():
    """Lists and numbers as its request model takes them."""
    from vllm.entrypoints.speech_to_text.transcription.protocol import TranscriptionRequest

    app, seen = FastAPI(), []

    @app.post(FORM_ROUTE)
    async def transcribe(request: Annotated[TranscriptionRequest, Form()]) -> None:
        seen.append((await request.file.read(), request))

    post_form(app)
    [(content, request)] = seen
    assert (content, request.model, request.language) == (b"RIFF", "served", None)
    assert (request.timestamp_granularities, request.temperature) == (["word", "segment"], 0.5)
    assert request.stream is False


def test_its_classify_takes_an_input():
    """That tells it from SGLang's own route of this name."""
    from vllm.entrypoints.pooling.classify.api_router import router

    app = FastAPI()
    app.include_router(router)
    assert "input" in request_fields(app)["/classify"]
