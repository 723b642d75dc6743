"""A real Prometheus with our configuration, rules and dashboard, beside a real worker."""

import contextlib
import math
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
import pytest

from monitoring import picture
from tests.support.environment import NAME, START_SECONDS, WORKER, worker_environment
from tests.support.http_worker import free_port
from tests.support.prometheus import (
    PANELS,
    RULES,
    Prometheus,
    configuration,
    fill_variables,
    install,
    running_prometheus,
    running_pushgateway,
)

KEY = "a-key-of-the-tests"
LABELS = {"job": "llm-worker", "endpoint": "an-endpoint", "worker": "a-worker"}
WAIT_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 60.0
ON_A_QUEUE_ONLY = {"POSTs of results", "POSTs sent again or lost"}
WITHOUT_EVENTS = {"POST latency"}  # its buckets are there, and nothing is in them
TOKENS = 24  # of a completion, which does not end before
QUESTION = {"role": "user", "content": "Repeat this: one two three one two three one two three."}
CHOSEN = 'job=~"$job",endpoint=~"$endpoint",worker=~"$worker"'


def wait_until(condition, what: str, seconds: float = WAIT_TIMEOUT_SECONDS):
    """Return what the condition returns once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.2)
    return found


@dataclass
class Monitored:
    """A worker, the Prometheus that scrapes it and the Pushgateway that it pushes to.

    `at` is a time at which Prometheus had all that the requests left: a scrape that is late on a
    busy machine hides every value for a moment.
    """

    worker: subprocess.Popen
    url: str
    prometheus: Prometheus
    pushgateway: str
    log: Path
    began: float = field(default_factory=time.time)
    at: float = math.nan

    @property
    def scraped(self) -> dict[str, str]:
        """Labels of what is scraped."""
        address = self.url.removeprefix("http://")
        return {"job": "llm-worker", "endpoint": "local", "worker": address}

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    def is_ready(self) -> bool:
        assert self.worker.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/ping", timeout=60).status_code == 200
        return False

    def pushed(self) -> list[dict[str, str]]:
        """Labels of the Pushgateway's groups."""
        url = f"{self.pushgateway}/api/v1/metrics"
        groups = httpx.get(url, timeout=60).json()["data"]
        return [group["labels"] for group in groups]

    def value(self, expression: str, at: float | None = None) -> float:
        """Value of an expression that is one number; 0 where there is none."""
        found = self.prometheus.query(expression, at)
        return found[0][1] if found else 0.0

    def alerts(self) -> set[tuple[str, str]]:
        """Name and state of each alert."""
        alerts = self.prometheus.get("alerts")["alerts"]
        return {(alert["labels"]["alertname"], alert["state"]) for alert in alerts}


@pytest.fixture(scope="module")
def monitored(tmp_path_factory):
    """All three of them, after some requests of which one was refused."""
    install()
    folder = tmp_path_factory.mktemp("monitoring")
    port, gateway = free_port(), free_port()
    environment = worker_environment(
        PORT=str(port),
        HTTP_HOST="127.0.0.1",
        API_KEY=KEY,
        PROMETHEUS_PUSHGATEWAY=f"http://127.0.0.1:{gateway}",
        RUNPOD_ENDPOINT_ID=LABELS["endpoint"],
        RUNPOD_POD_ID=LABELS["worker"],
        SPECULATIVE_METHOD="ngram",
        PRICE_PER_SECOND="0.001",
        VLLM_LOGGING_LEVEL="ERROR",
    )
    log = folder / "worker.log"
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(log.open("wb"))
        worker = subprocess.Popen(
            WORKER, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        stack.callback(_kill, worker)
        pushgateway = stack.enter_context(running_pushgateway(gateway, folder))
        config = configuration(folder, port, gateway, KEY)
        prometheus = stack.enter_context(running_prometheus(config))
        made = Monitored(worker, f"http://127.0.0.1:{port}", prometheus, pushgateway, log)
        wait_until(made.is_ready, "the worker", START_SECONDS)
        _send_requests(made)
        yield made


def _kill(worker: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _send_requests(monitored: Monitored) -> None:
    """Send requests until each kind was seen at two scrapes, which is what a rate needs."""
    succeeded = 'sum(llm_worker_requests_total{endpoint="local",outcome="ok"})'
    with monitored.client() as client:
        body = {"model": f"{NAME}-awq", "messages": [QUESTION], "max_tokens": TOKENS}
        body |= {"temperature": 0, "extra_body": {"ignore_eos": True}}
        for turn in (1, 2):
            for chunk in client.chat.completions.create(**body, stream=True):
                assert chunk.object == "chat.completion.chunk"
            client.chat.completions.create(**body)
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(**body | {"temperature": -1})
            wait_until(lambda turn=turn: monitored.value(succeeded) == 2 * turn, "a scrape")
    wait_until(lambda: LABELS in monitored.pushed(), "a push")
    pushed = fill_variables(f"sum(llm_worker_tokens_total{{{CHOSEN}}})", **LABELS)
    refused = succeeded.replace("ok", "refused")
    idle = 'sum(llm_worker_bottleneck{endpoint="local",kind="idle"})'

    def moment_of_all() -> float | None:
        at = time.time()
        scraped = [monitored.value(each, at) for each in (succeeded, refused, idle)]
        return at if scraped == [4, 2, 1] and monitored.value(pushed, at) > 0 else None

    monitored.at = wait_until(moment_of_all, "all that the requests left")


def test_prometheus_reads_the_worker_with_its_key_and_the_pushgateway(monitored):
    def targets() -> set[tuple[str, str, str]]:
        active = monitored.prometheus.get("targets")["activeTargets"]
        return {(each["scrapePool"], each["health"], each["lastError"]) for each in active}

    expected = {("llm-worker", "up", ""), ("pushgateway", "up", "")}
    wait_until(lambda: targets() == expected, f"{expected}")
    up = monitored.prometheus.query("llm_worker_engine_up == 1", monitored.at)
    by = sorted(tuple(labels[name] for name in LABELS) for labels, _ in up)
    assert by == sorted(tuple(labels.values()) for labels in (LABELS, monitored.scraped))


EXPRESSIONS = [
    pytest.param(panel["title"], target["expr"], id=f"{panel['title']}-{target['refId']}")
    for panel in PANELS
    for target in panel.get("targets", [])
]


@pytest.mark.parametrize("source", ["scraped", "pushed"])
@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_every_expression_of_the_dashboard_gives_a_result(monitored, title, expression, source):
    labels = monitored.scraped if source == "scraped" else LABELS
    filled = fill_variables(expression, **labels)
    values = [value for _, value in monitored.prometheus.query(filled, monitored.at)]
    if title in ON_A_QUEUE_ONLY:
        assert values == []
    elif title in WITHOUT_EVENTS:
        assert all(map(math.isnan, values))
    elif source == "scraped" or "rate(" not in expression:  # two pushes take ten seconds
        assert values
        assert not any(map(math.isnan, values))


@pytest.mark.parametrize(
    ("metric", "selector", "value"),
    [
        ("requests_total", 'outcome="ok"', 4),
        ("requests_total", 'outcome="refused"', 2),
        ("requests_active", "", 0),
        ("time_to_first_token_seconds_count", "", 2),
        ("tokens_total", 'kind="completion"', 4 * TOKENS),
        ("preemptions_total", "", 0),
        ("bottleneck", 'kind="idle"', 1),
    ],
    ids=["ok", "refused", "open", "streams", "tokens", "preemptions", "bottleneck"],
)
def test_the_metrics_count_the_requests_that_were_sent(monitored, metric, selector, value):
    expression = f"sum(llm_worker_{metric}{{{CHOSEN},{selector}}})"
    filled = fill_variables(expression, **monitored.scraped)
    assert monitored.value(filled, monitored.at) == value


def test_the_rules_load_and_only_the_drafts_and_the_idle_time_are_pending(monitored):
    def rules() -> list[dict]:
        groups = monitored.prometheus.get("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    # Rules are evaluated every second, and what was wrong while the worker started passes.
    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), "the rules")
    assert len(rules()) == len(RULES)
    assert {(rule["health"], rule.get("lastError")) for rule in rules()} == {("ok", None)}
    names = ("LlmWorkerSpeculationDoesNotPay", "LlmWorkerPaysForIdleTime")
    usual = {(name, "pending") for name in names}
    wait_until(lambda: monitored.alerts() <= usual, f"no other alerts than {usual}")
    recorded = 'llm_worker:start_seconds:total{endpoint="local"}'
    ends = 'llm_worker_start_offset_seconds{endpoint="local"} + llm_worker_start_seconds'
    assert monitored.value(f"max({ends})", monitored.at) > 1
    assert monitored.value(recorded, monitored.at) == monitored.value(f"max({ends})", monitored.at)


def test_the_picture_has_every_panel(monitored):
    figure = picture.draw(monitored.prometheus.url, monitored.began, time.time())
    titles = {panel["title"] for panel in PANELS if panel["type"] != "row"}
    assert {axes.get_title("left") for axes in figure.axes} - {""} == titles
    empty = {
        axes.get_title("left")
        for axes in figure.axes
        if "No data" in [text.get_text() for text in axes.texts]
    }
    assert empty == ON_A_QUEUE_ONLY | WITHOUT_EVENTS


def test_a_worker_that_ends_takes_back_what_it_pushed(monitored):
    """Runs last: it stops the worker."""
    assert LABELS in monitored.pushed()
    monitored.worker.terminate()
    assert monitored.worker.wait(STOP_TIMEOUT_SECONDS) == 0, monitored.log.read_text()
    wait_until(lambda: monitored.pushed() == [], "the end of what it pushed")
    wait_until(lambda: ("LlmWorkerUnreachable", "pending") in monitored.alerts(), "the alert")
    assert {state for _, state in monitored.alerts()} == {"pending"}
