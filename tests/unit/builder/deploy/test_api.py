"""Addresses of endpoints."""

import pytest

from builder.deploy.api import openai_url


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        pytest.param({"id": "e", "type": "QUEUE"}, "https://api.runpod.ai/v2/e/openai/v1", id="q"),
        pytest.param({"id": "e", "type": "LOAD_BALANCER"}, "https://e.api.runpod.ai/v1", id="lb"),
    ],
)
def test_the_documented_address_where_the_api_names_none(endpoint, address):
    assert openai_url(endpoint) == address
