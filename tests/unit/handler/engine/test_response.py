"""Errors in the engine's response."""

import json
from types import SimpleNamespace

import pytest

from handler.engine.interface import EngineRequest
from handler.engine.response import EngineResponse
from handler.errors import EngineError


def test_flags_in_an_error_message_become_variables_and_its_param_stays():
    """The runtime and the call stand in for an engine that answers with 400."""
    error = {"message": "set --tool-call-parser", "param": "--tool-call-parser"}
    response = EngineResponse(
        runtime=SimpleNamespace(running=None),
        request=EngineRequest("POST", "/v1/chat/completions"),
        call=SimpleNamespace(status=400, headers={"content-type": "application/json"}),
        deadline=None,
        on_data=lambda data: None,
    )
    with pytest.raises(EngineError) as caught:
        response.decode(json.dumps({"error": error}).encode())
    assert str(caught.value) == "set TOOL_CALL_PARSER"
    assert caught.value.param == "--tool-call-parser"
