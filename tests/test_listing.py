"""The Hub's form is the settings and the presets, and what it offers is true."""

import json
import re

import pytest

from builder import listing
from builder.presets import PRESETS
from handler.environ import load, variables
from runpod_local import JobState
from tests.support.environment import ROOT
from tests.support.vllm_adapter import checked_vllm_adapter as check

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported

VLLM = [preset for preset in PRESETS if preset.engine == "vllm"]


@pytest.mark.parametrize("engine", listing.FOLDERS)
def test_the_files_are_what_the_generator_writes(engine):
    """`python -m builder.listing` was run after the last change."""
    folder = ROOT / listing.FOLDERS[engine]
    assert json.loads((folder / "hub.json").read_text()) == listing.hub(engine)
    assert json.loads((folder / "tests.json").read_text()) == listing.tests()


def test_the_form_has_every_setting_that_a_queue_endpoint_has():
    """By its preferred name, once."""
    keys = [entry["key"] for entry in listing.hub("vllm")["config"]["env"]]
    settings = {names[0] for names in variables().values()}
    of_the_platform = {"RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_ENDPOINT_ID", "RUNPOD_POD_ID"}
    of_the_image = {"ENGINE", "BASE_PATH", "CACHE_ROOT"}
    of_http = {"SERVE_MODE", "PORT", "PORT_HEALTH", "HTTP_HOST", "API_KEY", "MAX_QUEUE"}
    of_http |= {"ALLOW_UNAUTHENTICATED", "CORS_ORIGINS", "PLAYGROUND", "METRICS_PORT"}
    assert settings - set(keys) == of_the_platform | of_the_image | of_http
    assert set(keys) - settings == set(listing.ENGINE_FLAGS)
    assert len(keys) == len(set(keys))


def test_the_defaults_of_the_form_mean_what_leaving_them_out_means():
    """The form sends them all."""
    entries = listing.hub("vllm")["config"]["env"]
    sent = {e["key"]: str(e["input"]["default"]) for e in entries if "default" in e["input"]}
    assert load(sent | {"MODEL_NAME": "m"}) == load({"MODEL_NAME": "m"})


def test_the_kinds_of_the_form():
    """A choice is offered as one, a number as a number."""
    inputs = {e["key"]: e["input"] for e in listing.hub("vllm")["config"]["env"]}
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
    assert kinds["ENABLE_PREFIX_CACHING"] == "boolean"


@pytest.mark.parametrize("preset", VLLM, ids=lambda preset: preset.name)
def test_a_preset_passes_the_engines_own_parser(model, preset):
    """Names, values, parsers of tool calls and reasoning."""
    adapter = check(model(), **preset.environment)
    for name, value in preset.environment.items():
        if name != "SPECULATIVE_METHOD":
            assert str(getattr(adapter._args, name.lower())).lower() == value
    if "SPECULATIVE_METHOD" in preset.environment:
        assert adapter._args.speculative_config["method"] == "ngram"


def test_every_flag_of_the_form_is_one_of_the_engines(model):
    """With a value of the kind that the form sends."""
    values = {"number": "1", "boolean": "false"}
    given = {
        "KV_CACHE_DTYPE": "fp8",
        "TOOL_CALL_PARSER": "hermes",
        "REASONING_PARSER": "qwen3",
        "MAX_MODEL_LEN": "4096",
        "TENSOR_PARALLEL_SIZE": "1",
    }
    sent = {
        name: given.get(name) or values[kind] for name, (kind, _) in listing.ENGINE_FLAGS.items()
    }
    parsed = vars(check(model(), **sent)._args)
    assert parsed.keys() >= {name.lower() for name in sent}


def test_the_presets_cover_what_people_ask_for():
    """And the page of the Hub lists each with its model and cards."""
    assert len({preset.name for preset in PRESETS}) == len(PRESETS) >= 6
    page = (ROOT / ".runpod/README.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| `([^`]+)` \| ([^|]+) \|$", page, re.MULTILINE)
    assert rows == [(preset.name, preset.model, preset.gpu) for preset in PRESETS]
    for preset in PRESETS:
        tensor_parallel = int(preset.environment.get("TENSOR_PARALLEL_SIZE", 1))
        assert tensor_parallel == preset.gpu_count


def test_the_hubs_tests_pass_on_a_worker(endpoint):
    """Each job of tests.json, on the demo model."""
    for job in listing.tests()["tests"]:
        done = endpoint.run(job["input"])
        assert (job["name"], done.state) == (job["name"], JobState.COMPLETED), done.error
