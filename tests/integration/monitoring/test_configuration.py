"""Prometheus' configuration and rules, the dashboard's JSON and the compose file."""

import pytest
import yaml

from tests.support.prometheus import MONITORING, PANELS, RULES, configuration, install, promtool

GRID_COLUMNS = 24


@pytest.fixture(scope="module", autouse=True)
def _packages():
    install()


def test_promtool_accepts_the_configuration_and_the_rules(tmp_path):
    code, output = promtool("check", "config", configuration(tmp_path, 8000, 9091, "a-key"))
    assert code == 0, output
    assert promtool("check", "rules", MONITORING / "rules.yml") == (
        0,
        f"Checking {MONITORING / 'rules.yml'}\n  SUCCESS: {len(RULES)} rules found\n\n",
    )


def test_the_alerts_fire_when_they_have_to():
    code, output = promtool("test", "rules", MONITORING / "rules.test.yml")
    assert code == 0, output


def test_every_alert_has_a_summary_a_description_a_severity_and_a_test():
    tests = (MONITORING / "rules.test.yml").read_text()
    alerts = [rule for rule in RULES if "alert" in rule]
    assert alerts
    for rule in alerts:
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["alert"] in tests


def test_no_two_panels_overlap():
    taken = set()
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= GRID_COLUMNS
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_has_an_id_a_title_and_a_description_of_its_own():
    assert [panel["id"] for panel in PANELS] == list(range(1, len(PANELS) + 1))
    panels = [panel for panel in PANELS if panel["type"] != "row"]
    for name in ("title", "description"):
        assert all(panel[name] for panel in panels)
    assert len({panel["title"] for panel in panels}) == len(panels)


def test_every_expression_is_of_the_workers_that_are_chosen():
    chosen = 'job=~"$job",endpoint=~"$endpoint",worker=~"$worker"'
    for panel in PANELS:
        for target in panel.get("targets", []):
            selectors = target["expr"].count("{")
            assert target["expr"].count(f"{{{chosen}") == selectors > 0, panel["title"]


def test_the_compose_file_mounts_what_is_there_and_runs_the_same_worker():
    services = yaml.safe_load((MONITORING / "compose.yaml").read_text())["services"]
    assert set(services) == {"worker", "prometheus", "pushgateway", "grafana"}
    for name, service in services.items():
        if name != "worker":
            assert service["image"].rpartition(":")[2][:1] in "v123456789"
            assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service.get("volumes", []):
            if volume.startswith("."):
                assert (MONITORING / volume.split(":")[0]).is_file(), volume
    root = yaml.safe_load((MONITORING.parent / "compose.yaml").read_text())["services"]["worker"]
    for name in ("deploy", "shm_size", "image"):
        assert services["worker"][name] == root[name]
