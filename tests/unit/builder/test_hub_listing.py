"""The Hub's listing matches the settings and the presets."""

import json
import re

import pytest

from builder import hub_listing
from builder.presets import PRESETS
from handler.engine.flags.aliases import flag_rules
from handler.settings.environ import clean_environ, load_settings, setting_rules, setting_variables
from tests.support.environment import ROOT


@pytest.mark.parametrize("engine", hub_listing.FOLDERS)
def test_the_files_are_up_to_date(engine):
    folder = ROOT / hub_listing.FOLDERS[engine]
    assert json.loads((folder / "hub.json").read_text()) == hub_listing.hub_json(engine)
    assert json.loads((folder / "tests.json").read_text()) == hub_listing.release_tests_json()


def test_the_form_has_every_setting_of_a_queue_endpoint_once_by_its_preferred_name():
    keys = [entry["key"] for entry in hub_listing.hub_json("vllm")["config"]["env"]]
    settings = {names[0] for names in setting_variables().values()}
    of_the_platform = {"RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_ENDPOINT_ID", "RUNPOD_POD_ID"}
    of_the_image = {"ENGINE", "BASE_PATH", "CACHE_ROOT"}
    of_http = {"SERVE_MODE", "PORT", "PORT_HEALTH", "HTTP_HOST", "API_KEY", "MAX_QUEUE"}
    of_http |= {"HEALTH_CHECK_PATH"}
    of_http |= {"ALLOW_UNAUTHENTICATED", "CORS_ORIGINS", "PLAYGROUND", "METRICS_PORT"}
    assert settings - set(keys) == of_the_platform | of_the_image | of_http
    assert set(keys) - settings == set(hub_listing.ENGINE_FLAGS)
    assert len(keys) == len(set(keys))


def test_the_defaults_in_the_form_are_those_of_the_settings():
    entries = hub_listing.hub_json("vllm")["config"]["env"]
    sent = {e["key"]: str(e["input"]["default"]) for e in entries if "default" in e["input"]}
    assert load_settings(sent | {"MODEL_NAME": "m"}) == load_settings({"MODEL_NAME": "m"})


@pytest.mark.parametrize("engine", hub_listing.FOLDERS)
def test_every_switch_of_the_form_has_its_default(engine):
    inputs = {e["key"]: e["input"] for e in hub_listing.hub_json(engine)["config"]["env"]}
    switches = {key: made for key, made in inputs.items() if made["type"] == "boolean"}
    words = {(made["trueValue"], made["falseValue"]) for made in switches.values()}
    assert words == {("true", "false")}
    assert {key: made["default"] for key, made in switches.items()} == {
        "VOLUME_CACHE": True,
        "PREFETCH_WEIGHTS": True,
        "LOG_CONTENT": False,
        "ENABLE_AUTO_TOOL_CHOICE": False,
        "TRUST_REMOTE_CODE": False,
    }


def as_left_blank(entry):
    """Return what the form sends for an input that nobody filled in."""
    made = entry["input"]
    blank = {"number": "0", "boolean": "false"}.get(made["type"], "")
    default = made.get("default", blank)
    return str(default).lower() if made["type"] == "boolean" else str(default)


@pytest.mark.parametrize("engine", hub_listing.FOLDERS)
def test_a_form_that_was_left_blank_is_no_setting_at_all(engine):
    """A blank number arrives as 0, a switch as false."""
    entries = hub_listing.hub_json(engine)["config"]["env"]
    sent = {entry["key"]: as_left_blank(entry) for entry in entries}
    cleaned, _ = clean_environ(sent, setting_rules(), flag_rules())
    assert load_settings(cleaned) == load_settings({})
    left = {name: cleaned[name] for name in hub_listing.ENGINE_FLAGS if cleaned.get(name)}
    off = dict.fromkeys(("ENABLE_AUTO_TOOL_CHOICE", "TRUST_REMOTE_CODE"), "false")
    assert left == off


@pytest.mark.parametrize("word", ["", " ", "None", "null", "NONE", '""', "'None'", "None,"])
def test_no_input_of_the_form_takes_a_word_for_nothing_as_its_value(word):
    keys = [entry["key"] for entry in hub_listing.hub_json("vllm")["config"]["env"]]
    cleaned, _ = clean_environ(dict.fromkeys(keys, word), setting_rules(), flag_rules())
    assert {name: value for name, value in cleaned.items() if value} == {}
    assert load_settings(dict.fromkeys(keys, word)) == load_settings({})


@pytest.mark.parametrize("engine", hub_listing.FOLDERS)
def test_values_in_quotes_are_the_values(engine):
    entries = hub_listing.hub_json(engine)["config"]["env"]
    sent = {e["key"]: f'"{e["input"]["default"]}",' for e in entries if "default" in e["input"]}
    assert load_settings(sent) == load_settings({})


def test_each_input_has_the_type_of_its_setting():
    inputs = {e["key"]: e["input"] for e in hub_listing.hub_json("vllm")["config"]["env"]}
    assert inputs["MODEL_NAME"] == {
        "name": "Model name",
        "type": "huggingface",
        "description": "Hub repository or local folder",
        "required": True,
    }
    assert inputs["LOG_FORMAT"]["options"] == [
        {"label": "text", "value": "text"},
        {"label": "json", "value": "json"},
    ]
    kinds = {key: made["type"] for key, made in inputs.items()}
    assert (kinds["DRAIN_TIMEOUT"], kinds["REQUEST_TIMEOUT"]) == ("number", "number")
    assert kinds["MAX_CONCURRENCY"] == "string"  # a number, or auto
    assert kinds["TRUST_REMOTE_CODE"] == "boolean"


def test_the_hubs_page_lists_every_preset_with_its_model_and_gpus():
    assert len({preset.name for preset in PRESETS}) == len(PRESETS) >= 10
    page = (ROOT / ".runpod/README.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| `([^`]+)` \| ([^|]+) \|$", page, re.MULTILINE)
    assert rows == [(preset.name, preset.model, preset.gpu) for preset in PRESETS]
    for preset in PRESETS:
        tensor_parallel = int(preset.environment.get("TENSOR_PARALLEL_SIZE", 1))
        assert tensor_parallel == preset.gpu_count
