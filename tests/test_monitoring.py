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
import yaml

from monitoring import dashboard, picture, queries
from monitoring.recorded import Prometheus, filled
from tests.prometheus_server import (
    MONITORING,
    configuration,
    free_port,
    install,
    promtool,
    running_prometheus,
    running_pushgateway,
)
from tests.support.environment import NAME, START_SECONDS, WORKER, worker_environment

KEY = "a-key-of-the-tests"
LABELS = {"job": "llm-worker", "endpoint": "an-endpoint", "worker": "a-worker"}
WAIT_SECONDS = 60.0
STOP_SECONDS = 60.0
ON_A_QUEUE_ONLY = {"POSTs of results", "POSTs not taken, in total"}
WITHOUT_EVENTS = {"POST to its answer"}  # its buckets are there, and nothing is in them
TOKENS = 24  # of an answer, which does not end before
QUESTION = {"role": "user", "content": "Repeat this: one two three one two three one two three."}


def wait_until(condition, what: str, seconds: float = WAIT_SECONDS):
    """Return what the condition returns once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.2)
    return found


@dataclass
class Watched:
    """A worker, the Prometheus that scrapes it and the Pushgateway that it pushes to."""

    worker: subprocess.Popen
    url: str
    config: Path
    prometheus: Prometheus
    pushgateway: str
    log: Path
    began: float = field(default_factory=time.time)

    @property
    def scraped(self) -> dict[str, str]:
        """The labels of what is scraped."""
        address = self.url.removeprefix("http://")
        return {"job": "llm-worker", "endpoint": "local", "worker": address}

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    def is_ready(self) -> bool:
        assert self.worker.poll() is None, self.log.read_text()
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/ping").status_code == 200
        return False

    def pushed(self) -> list[dict[str, str]]:
        """Return the labels of the Pushgateway's groups."""
        groups = httpx.get(f"{self.pushgateway}/api/v1/metrics").json()["data"]
        return [group["labels"] for group in groups]

    def count(self, expression: str) -> float:
        """Return the value of an expression that is one number; 0 where there is none."""
        found = self.prometheus.query(expression)
        return found[0].values[0] if found else 0.0


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """All three of them, after some requests of which one was refused."""
    install()
    folder = tmp_path_factory.mktemp("monitoring")
    port, gateway = free_port(), free_port()
    config = configuration(folder, port, gateway, KEY)
    environment = worker_environment(
        PORT=str(port),
        HTTP_HOST="127.0.0.1",
        API_KEY=KEY,
        PROMETHEUS_PUSHGATEWAY=f"http://127.0.0.1:{gateway}",
        RUNPOD_ENDPOINT_ID=LABELS["endpoint"],
        RUNPOD_POD_ID=LABELS["worker"],
        SPECULATIVE_METHOD="ngram",
        VLLM_LOGGING_LEVEL="ERROR",
    )
    log = folder / "worker.log"
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(log.open("wb"))
        worker = subprocess.Popen(
            WORKER, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        stack.callback(_end, worker)
        pushgateway = stack.enter_context(running_pushgateway(gateway, folder))
        prometheus = stack.enter_context(running_prometheus(config))
        url = f"http://127.0.0.1:{port}"
        made = Watched(worker, url, config, prometheus, pushgateway, log)
        wait_until(made.is_ready, "the worker", START_SECONDS)
        _ask(made)
        yield made


def _end(worker: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _ask(watched: Watched) -> None:
    """Send requests until each kind has been seen at two scrapes, which is what a rate needs."""
    seen = 'sum(llm_worker_requests_total{endpoint="local",outcome="ok"})'
    with watched.client() as client:
        asked = {"model": f"{NAME}-awq", "messages": [QUESTION], "max_tokens": TOKENS}
        asked |= {"temperature": 0, "extra_body": {"ignore_eos": True}}
        for turn in (1, 2):
            for chunk in client.chat.completions.create(**asked, stream=True):
                assert chunk.object == "chat.completion.chunk"
            client.chat.completions.create(**asked)
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(**asked | {"temperature": -1})
            wait_until(lambda turn=turn: watched.count(seen) == 2 * turn, "a scrape")
    wait_until(lambda: LABELS in watched.pushed(), "a push")
    pushed = filled(f"sum({queries.series('llm_worker_tokens_total')})", "1m", **LABELS)
    wait_until(lambda: watched.count(pushed) > 0, "a scrape of the Pushgateway")


def test_promtool_has_nothing_to_say(watched):
    """The configuration, the rules that it names, and the alerts that they have to raise."""
    code, said = promtool("check", "config", watched.config)
    assert code == 0, said
    assert promtool("check", "rules", MONITORING / "rules.yml") == (
        0,
        f"Checking {MONITORING / 'rules.yml'}\n  SUCCESS: {len(RULES)} rules found\n\n",
    )
    code, said = promtool("test", "rules", MONITORING / "rules.test.yml")
    assert code == 0, said


def test_every_alert_says_what_to_do_and_is_tested():
    """A summary, a description, and its name among the rules' tests."""
    tests = (MONITORING / "rules.test.yml").read_text()
    alerts = [rule for rule in RULES if "alert" in rule]
    assert alerts
    for rule in alerts:
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["alert"] in tests


def test_the_dashboard_is_what_its_module_says():
    """`python -m monitoring.dashboard` has been run after the last change."""
    assert dashboard.FILE.read_text() == dashboard.text()


def test_no_two_panels_lie_on_each_other():
    """Each is as wide as Grafana's grid lets it be, and each row has its own lines."""
    taken = set()
    for panel in dashboard.dashboard()["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= dashboard.COLUMNS
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_reads_the_worker_with_its_key_and_the_pushgateway(watched):
    """Each target is up, and the worker's own metrics have the labels that are pushed."""
    targets = watched.prometheus.get("targets")["activeTargets"]
    assert {(each["scrapePool"], each["health"], each["lastError"]) for each in targets} == {
        ("llm-worker", "up", ""),
        ("pushgateway", "up", ""),
    }
    up = watched.prometheus.query("llm_worker_engine_up == 1")
    by = sorted(tuple(line.labels[name] for name in LABELS) for line in up)
    assert by == sorted(tuple(labels.values()) for labels in (LABELS, watched.scraped))


EXPRESSIONS = [
    pytest.param(panel, target["expr"], id=f"{panel['title']}-{target['refId']}")
    for panel in dashboard.dashboard()["panels"]
    for target in panel.get("targets", [])
]


@pytest.mark.parametrize("source", ["scraped", "pushed"])
@pytest.mark.parametrize(("panel", "expression"), EXPRESSIONS)
def test_every_panel_shows_something(watched, panel, expression, source):
    """Numbers, from the worker as it is scraped; from the Pushgateway those that are no rates."""
    labels = watched.scraped if source == "scraped" else LABELS
    found = watched.prometheus.query(filled(expression, "1m", **labels))
    values = [value for line in found for value in line.values]
    if panel["title"] in ON_A_QUEUE_ONLY:
        assert values == []
    elif panel["title"] in WITHOUT_EVENTS:
        assert all(map(math.isnan, values))
    elif source == "scraped" or "rate(" not in expression:  # two pushes take ten seconds
        assert values
        assert not any(map(math.isnan, values))


@pytest.mark.parametrize(
    ("metric", "labels", "value"),
    [
        ("requests_total", {"outcome": "ok"}, 4),
        ("requests_total", {"outcome": "refused"}, 2),
        ("requests_active", {}, 0),
        ("time_to_first_token_seconds_count", {}, 2),
        ("tokens_total", {"kind": "completion"}, 4 * TOKENS),
        ("preemptions_total", {}, 0),
        ("bottleneck", {"kind": "idle"}, 1),
    ],
    ids=["ok", "refused", "open", "streams", "tokens", "preemptions", "bottleneck"],
)
def test_the_figures_are_those_of_the_requests(watched, metric, labels, value):
    """Two turns of a stream, a plain answer and a refusal; the answers go to their limit."""
    expression = f"sum({queries.series(f'llm_worker_{metric}', **labels)})"
    assert watched.count(filled(expression, "1m", **watched.scraped)) == value


def test_the_rules_load_and_none_fires(watched):
    """Each is evaluated, and nothing is wrong with this worker but, on its text, the drafts."""

    def loaded() -> list[dict]:
        groups = watched.prometheus.get("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def alerts() -> set[tuple[str, str]]:
        return {(each["labels"]["alertname"], each["state"]) for each in _alerts(watched)}

    # Rules are evaluated now and then, and what was wrong while the worker started passes.
    wait_until(lambda: all(rule["health"] != "unknown" for rule in loaded()), "the rules")
    assert len(loaded()) == len(RULES)
    assert {(rule["health"], rule.get("lastError")) for rule in loaded()} == {("ok", None)}
    usual = {("LlmWorkerSpeculationDoesNotPay", "pending")}
    wait_until(lambda: alerts() <= usual, f"no other alerts than {usual}, of {alerts()}")
    recorded = 'llm_worker:start_seconds:total{endpoint="local"}'
    wait_until(lambda: watched.count(recorded) > 0, "the sum of the start's stages")
    assert 1 < watched.count(recorded) < 180


def test_the_picture_has_every_panel(watched, tmp_path):
    """Texts stay texts, and where nothing was recorded it says so."""
    out = tmp_path / "dashboard.svg"
    picture.write(watched.prometheus, out, watched.began, time.time())
    drawn = out.read_text()
    for panel in dashboard.dashboard()["panels"]:
        assert f">{panel['title']}<" in drawn
    assert drawn.count(">No data<") == len(ON_A_QUEUE_ONLY | WITHOUT_EVENTS)
    assert str(tmp_path) not in drawn


def test_the_compose_file_mounts_what_is_there():
    """Pinned images, and the same worker as in the root's compose.yaml."""
    text = (MONITORING / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"worker", "prometheus", "pushgateway", "grafana"}
    for name, service in services.items():
        if name != "worker":
            assert service["image"].rpartition(":")[2][:1] in "v123456789"
            assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service.get("volumes", []):
            if volume.startswith("."):
                assert (MONITORING / volume.split(":")[0]).is_file(), volume
    root = yaml.safe_load((MONITORING.parent / "compose.yaml").read_text())["services"]["worker"]
    assert services["worker"]["deploy"] == root["deploy"]
    assert services["worker"]["shm_size"] == root["shm_size"]
    assert services["worker"]["image"] == root["image"]


def test_a_worker_that_ends_takes_back_what_it_pushed(watched):
    """The last test: SIGTERM, exit code 0, nothing in the Pushgateway, and the target is down."""
    assert LABELS in watched.pushed()
    watched.worker.terminate()
    assert watched.worker.wait(STOP_SECONDS) == 0, watched.log.read_text()
    assert watched.pushed() == []
    wait_until(lambda: {"LlmWorkerUnreachable"} <= _names(_alerts(watched)), "the alert")
    assert {each["state"] for each in _alerts(watched)} == {"pending"}


def _alerts(watched: Watched) -> list[dict]:
    return watched.prometheus.get("alerts")["alerts"]


def _names(alerts: list[dict]) -> set[str]:
    return {each["labels"]["alertname"] for each in alerts}


RULES = [
    rule
    for group in yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
