"""The metrics over HTTP, and those of a queue worker on a port of their own."""

import httpx

from handler.serve.http.metrics_server import MetricsServer
from tests.support.expositions import value
from tests.support.http_front_end import STREAM
from tests.support.http_worker import free_port


def test_the_exposition_has_the_engines_metrics_and_the_workers(http):
    """One text, and nothing of the user's in a label."""
    http.complete()
    http.call("POST", "/v1/completions", json=STREAM)
    http.call("POST", "/v1/secret-path", json=STREAM)
    text = http.call("GET", "/metrics").text
    assert value(text, "vllm:num_requests_running") == 3
    ok = 'llm_worker_requests_total{outcome="ok",route="/v1/completions"}'
    assert value(text, ok) == 2
    assert value(text, 'llm_worker_requests_total{outcome="refused",route="?"}') == 1
    assert value(text, 'llm_worker_tokens_total{kind="cached"}') == 10
    assert value(text, "llm_worker_time_to_first_token_seconds_count") == 1
    assert value(text, "llm_worker_inter_token_seconds_count") == 1
    assert value(text, "llm_worker_engine_up") == 1
    assert value(text, "llm_worker_engine_running_requests") == 3
    assert value(text, 'llm_worker_bottleneck{kind="queue"}') == 1
    assert "secret" not in text


def test_a_queues_worker_has_its_metrics_on_a_port_of_their_own():
    """503 until there are any."""
    port = free_port()
    with MetricsServer("127.0.0.1", port) as server:
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/metrics").status_code == 503
        assert httpx.get(f"{url}/ping").status_code == 204

        async def exposition():
            return "a 1\n"

        server.publish(exposition)
        assert httpx.get(f"{url}/metrics").text == "a 1\n"
        assert httpx.get(f"{url}/run").status_code == 404
