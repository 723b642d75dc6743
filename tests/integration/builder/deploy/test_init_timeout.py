"""`deploy` sets RUNPOD_INIT_TIMEOUT from what a new worker has to download."""

import pytest

from tests.integration.builder.deploy.conftest import CHAT
from tests.support.hub import TOKEN, Repository

BYTES = 40_000_000_000
TIMEOUT = "1140"  # 800 s of download and 300 s for the engine, in whole minutes


class LargeRepository(Repository):
    """A repository that says its weights were large."""

    def entry(self, name):
        entry = super().entry(name)
        if "lfs" not in entry:
            return entry
        return entry | {"size": BYTES, "lfs": entry["lfs"] | {"size": BYTES}}


@pytest.fixture
def large(hub):
    """A hub where org/model is large, and org/other is not."""
    hub.repositories["org/model"] = LargeRepository(hub.repositories["org/model"].folder)
    return hub


def env_of(api):
    [endpoint] = api.endpoints.values()
    return endpoint["env"]


def test_a_large_model_gets_the_time_for_its_download(api, builder, large):
    code, out, _ = builder("deploy", *CHAT, "--wait", "0")
    assert code == 0
    assert f"    env.RUNPOD_INIT_TIMEOUT  {TIMEOUT}\n" in out
    assert env_of(api) == {"MODEL_NAME": "org/model", "RUNPOD_INIT_TIMEOUT": TIMEOUT}
    again = builder("deploy", *CHAT, "--wait", "0")[1]
    assert again.startswith("plan for chat (queue)\n  nothing to change\n")


def test_deploy_waits_as_long_as_the_platform(api, builder, large):
    assert f"first worker, at most {TIMEOUT} s\n" in builder("deploy", *CHAT)[1]


@pytest.mark.parametrize(
    ("given", "env"),
    [
        (("-e", "RUNPOD_INIT_TIMEOUT=600"), {"RUNPOD_INIT_TIMEOUT": "600"}),
        (("-e", "RUNPOD_INIT_TIMEOUT="), {}),
    ],
    ids=["another", "none"],
)
def test_what_the_user_gives_is_never_replaced(api, builder, large, given, env):
    assert builder("deploy", *CHAT, *given, "--wait", "0")[0] == 0
    assert env_of(api) == {"MODEL_NAME": "org/model", **env}
    assert large.asked == []


def test_a_small_model_and_a_model_in_the_image_get_none(api, builder, hub):
    builder("deploy", *CHAT, "--wait", "0")
    assert env_of(api) == {"MODEL_NAME": "org/model"}
    hub.asked.clear()
    builder("deploy", "--name", "baked", "--image", "me/baked:1", "--gpu", "ADA_24", "--wait", "0")
    builder("deploy", *CHAT[:2], "--model", "/runpod-volume/model", "--wait", "0")
    assert [endpoint["env"] for endpoint in api.endpoints.values()] == [
        {"MODEL_NAME": "/runpod-volume/model"},
        {},
    ]
    assert hub.asked == []


def test_another_model_gets_its_own_time(api, builder, large):
    builder("deploy", *CHAT, "--wait", "0")
    builder("deploy", "--name", "chat", "--model", "org/other", "--wait", "0")
    assert env_of(api) == {"MODEL_NAME": "org/other"}
    builder("deploy", "--name", "chat", "-e", "MODEL_NAME=org/model", "--wait", "0")
    assert env_of(api) == {"MODEL_NAME": "org/model", "RUNPOD_INIT_TIMEOUT": TIMEOUT}


def test_other_changes_do_not_ask_the_hub(api, builder, large):
    builder("deploy", *CHAT, "-e", "RUNPOD_INIT_TIMEOUT=", "--wait", "0")
    builder("deploy", "--name", "chat", "--max", "9", "-e", "LOG_FORMAT=json", "--wait", "0")
    assert env_of(api) == {"MODEL_NAME": "org/model", "LOG_FORMAT": "json"}
    assert large.asked == []


def test_a_hub_that_does_not_know_the_model_leaves_the_time_as_it_was(api, builder, large):
    """The plan says why."""
    builder("deploy", *CHAT, "--wait", "0")
    del large.repositories["org/model"]
    code, out, _ = builder("deploy", *CHAT, "--max", "9", "--wait", "0")
    assert code == 0
    assert out.splitlines()[0] == (
        "note: RUNPOD_INIT_TIMEOUT is not set, the model's size is unknown: org/model: no such "
        "repository on the hub, or it is private and HF_TOKEN gives no access."
    )
    assert env_of(api)["RUNPOD_INIT_TIMEOUT"] == TIMEOUT


def test_a_private_model_is_asked_for_with_the_token_of_the_workers(api, builder, large):
    folder = large.repositories["org/model"].folder
    large.repositories["org/model"] = LargeRepository(folder, private=True)
    builder("deploy", *CHAT, "-e", "HF_TOKEN", "--wait", "0", HF_TOKEN=TOKEN)
    assert env_of(api)["RUNPOD_INIT_TIMEOUT"] == TIMEOUT


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SPECULATIVE_MODEL", "org/draft"),
        ("SPECULATIVE_CONFIG", '{"method": "draft_model", "model": "org/draft"}'),
    ],
)
def test_a_large_draft_model_counts(api, builder, large, variable, value):
    large.repositories["org/draft"] = LargeRepository(large.repositories["org/model"].folder)
    given = [f"{variable}={value}"]
    if variable == "SPECULATIVE_MODEL":
        given.append("SPECULATIVE_METHOD=draft")
    builder("deploy", *CHAT, *(part for each in given for part in ("-e", each)), "--wait", "0")
    assert env_of(api)["RUNPOD_INIT_TIMEOUT"] == "1920"  # 1600 s of downloads


def test_a_draft_model_that_is_added_later_counts(api, builder, large):
    builder("deploy", *CHAT, "--model", "org/other", "--wait", "0")
    config = '{"method": "draft_model", "model": "org/model"}'
    builder("deploy", "--name", "chat", "-e", f"SPECULATIVE_CONFIG={config}", "--wait", "0")
    assert env_of(api)["RUNPOD_INIT_TIMEOUT"] == TIMEOUT


def test_a_large_adapter_counts(api, builder, large, tmp_path):
    """Only its two files."""
    for name in ("adapter_config.json", "adapter_model.safetensors", "optimizer.bin"):
        (tmp_path / name).write_bytes(b"{}")
    large.repositories["org/adapter"] = LargeRepository(tmp_path)
    builder("deploy", *CHAT, "-e", "LORA_MODULES=sql=org/adapter", "--wait", "0")
    assert env_of(api)["RUNPOD_INIT_TIMEOUT"] == "1920"
