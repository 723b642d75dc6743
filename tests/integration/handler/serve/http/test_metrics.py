"""The metrics over HTTP, and those of a queue worker on a port of their own."""

import threading

import httpx
import pytest

from handler.serve.http.metrics_server import MetricsServer
from tests.support.expositions import value
from tests.support.http_front_end import STREAM
from tests.support.http_worker import free_port

STATES = ("start", "busy", "idle")


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


def test_the_requests_shares_are_the_dollars_of_the_busy_time(http, caplog):
    """The worker costs 0.001 dollars a second; one request runs alone, then two at once."""
    caplog.set_level("INFO", "handler")
    http.complete()
    threads = [threading.Thread(target=http.complete) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    http.call("POST", "/v1/secret-path", json=STREAM)  # the engine never has it
    lines = [record.fields for record in caplog.records if hasattr(record, "fields")]
    text = http.call("GET", "/metrics").text
    dollars = {
        state: value(text, f'llm_worker_dollars_total{{state="{state}"}}') for state in STATES
    }
    seconds = {
        state: value(text, f'llm_worker_state_seconds_total{{state="{state}"}}') for state in STATES
    }
    assert dollars == pytest.approx({state: each / 1000 for state, each in seconds.items()})
    assert sum(line.get("dollars", 0) for line in lines) == pytest.approx(dollars["busy"], abs=1e-7)
    assert dollars["busy"] > 0
    assert value(text, "llm_worker_dollars_per_second") == 0.001


def test_a_queues_worker_has_its_metrics_on_a_port_of_their_own():
    """503 until there are any."""
    port = free_port()
    with MetricsServer("127.0.0.1", port) as server:
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/metrics", timeout=60).status_code == 503
        assert httpx.get(f"{url}/ping", timeout=60).status_code == 204

        async def exposition():
            return "a 1\n"

        server.publish(exposition)
        assert httpx.get(f"{url}/metrics", timeout=60).text == "a 1\n"
        assert httpx.get(f"{url}/run", timeout=60).status_code == 404
