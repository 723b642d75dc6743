"""`deploy` creates and changes an endpoint, and shows that it answers."""

from tests.integration.builder.deploy.conftest import CHAT, snippet
from tests.support.runpod_endpoint import ANSWER

NEW = """\
plan for chat (queue)
  create template chat
  create endpoint chat
    image                me/worker:1
    disk                 150 GB
    gpu.pools            ADA_24
    gpu.count            1
    gpu.minCudaVersion   13.0
    workers.min          0
    workers.max          3
    workers.idleTimeout  5 s
    scaling              {"type": "QUEUE_DELAY", "queueDelay": 4}
    timeout              600000 ms
    flashboot            FLASHBOOT
    networkVolumes       none
    env.MODEL_NAME       org/model
"""
CREATED = NEW + "created template chat (tpl-3)\ncreated endpoint chat (ep-4)\n"
ENDPOINT = {
    "name": "chat",
    "type": "QUEUE",
    "image": "me/worker:1",
    "disk": 150,
    "env": {"MODEL_NAME": "org/model"},
    "gpu": {"pools": ["ADA_24"], "count": 1, "minCudaVersion": "13.0"},
    "workers": {"min": 0, "max": 3, "idleTimeout": 5},
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
    "timeout": 600_000,
    "flashboot": "FLASHBOOT",
    "networkVolumes": [],
}


def test_a_new_endpoint_from_the_plan_to_the_answer(api, builder):
    api.states = [{}, {"throttled": 1}, {"initializing": 1}, {"initializing": 1}, {"idle": 1}]
    assert builder("deploy", *CHAT) == (
        0,
        CREATED
        + "waiting for the first worker, at most 900 s\n"
        + "N s  no worker\nN s  1 throttled\nN s  1 initializing\nN s  a worker answers\n"
        + f"{ANSWER}\n"
        + snippet("API/queue/ep-4/openai/v1", "org/served"),
        "",
    )
    assert api.sent("POST", "/v2/serverless") == [ENDPOINT]
    assert api.sent("POST", "/v2/templates") == [
        {
            "name": "chat",
            "image": "me/worker:1",
            "disk": 150,
            "env": {"MODEL_NAME": "org/model"},
            "serverless": True,
            "public": False,
            "startSsh": False,
            "startJupyter": False,
        }
    ]
    assert api.cancelled == []


def test_a_load_balancer(api, builder):
    api.states = [{"initializing": 1}, {"initializing": 1}, {"idle": 1}]
    code, out, err = builder("deploy", *CHAT, "--type", "lb", "-e", "MAX_NUM_SEQS=48")
    assert (code, err) == (0, "")
    assert out.split("created endpoint chat (ep-4)\n")[1] == (
        "waiting for the first worker, at most 900 s\n"
        f"N s  1 initializing\nN s  a worker answers\n{ANSWER}\n"
        + snippet("API/balancer/ep-4/v1", "org/served")
    )
    (made,) = api.sent("POST", "/v2/serverless")
    assert made["type"] == "LOAD_BALANCER"
    assert made["ports"] == ["8000/http"]
    assert made["scaling"] == {"type": "REQUEST_COUNT", "requestCount": 48}
    assert made["env"] == {
        "MODEL_NAME": "org/model",
        "MAX_NUM_SEQS": "48",
        "PORT": "8000",
        "SERVE_MODE": "http",
    }


def test_the_same_again_changes_nothing(api, builder):
    builder("deploy", *CHAT, "--gpu", "ADA_24,AMPERE_24", "--wait", "0")
    before = api.changes()
    assert builder("deploy", *CHAT, "--gpu", "AMPERE_24,ADA_24", "--wait", "0") == (
        0,
        "plan for chat (queue)\n  nothing to change\n"
        + snippet("API/queue/ep-4/openai/v1", "org/model"),
        "",
    )
    assert api.changes() == before


def test_what_differs_is_shown_and_changed_and_nothing_else_is_sent(api, builder):
    builder("deploy", *CHAT, "--wait", "0", "--max", "7", "-e", "LOG_FORMAT=json")
    changed = (*CHAT, "--wait", "0", "--image", "me/worker:2", "--min", "1", "--volume", "vol-1")
    code, out, err = builder("deploy", *changed, "-e", "MAX_MODEL_LEN=8192")
    assert (code, err) == (0, "")
    assert (
        out.split("\n\n")[0]
        == """\
plan for chat (queue)
  change template chat (tpl-3)
  change endpoint chat (ep-4)
    image              me/worker:1 → me/worker:2
    workers.min        0 → 1
    networkVolumes     none → vol-1
    env.LOG_FORMAT     json → nothing
    env.MAX_MODEL_LEN  nothing → 8192
changed template chat (tpl-3)
changed endpoint chat (ep-4)"""
    )
    environment = {"MODEL_NAME": "org/model", "MAX_MODEL_LEN": "8192"}
    assert api.sent("PATCH", "/v2/templates/tpl-3") == [
        {"image": "me/worker:2", "disk": 150, "env": environment}
    ]
    assert api.sent("PATCH", "/v2/serverless/ep-4") == [
        {
            "image": "me/worker:2",
            "workers": {"min": 1},
            "networkVolumes": ["vol-1"],
            "env": environment,
        }
    ]
    assert api.endpoints["ep-4"]["workers"] == {"min": 1, "max": 7, "idleTimeout": 5}


def test_scaling_alone_leaves_the_environment_and_the_image(api, builder):
    builder("deploy", *CHAT, "--wait", "0", "-e", "LOG_FORMAT=json")
    code, out, _ = builder("deploy", "--name", "chat", "--max", "9", "--wait", "0")
    assert code == 0
    assert out.startswith(
        "plan for chat (queue)\n  change endpoint chat (ep-4)\n    workers.max  3 → 9\n"
        "changed endpoint chat (ep-4)\n"
    )
    assert api.sent("PATCH", "/v2/serverless/ep-4") == [{"workers": {"max": 9}}]


def test_a_preset_sets_the_environment_anew_and_a_name_alone_leaves_it(api, builder):
    preset = ("small-awq", "--image", "me/worker:1", "--wait", "0")
    name = "qwen2.5-7b-instruct-awq"
    builder("deploy", *preset, "--env", "MAX_MODEL_LEN=16384")
    assert builder("deploy", "--name", name, "--max", "6", "--dry-run") == (
        0,
        f"plan for {name} (queue)\n  change endpoint {name} (ep-4)\n    workers.max  3 → 6\n"
        "nothing was changed (--dry-run)\n",
        "",
    )
    assert builder("deploy", *preset, "--max", "6", "--dry-run") == (
        0,
        f"plan for {name} (queue)\n"
        f"  change template {name} (tpl-3)\n"
        f"  change endpoint {name} (ep-4)\n    workers.max        3 → 6\n"
        "    env.MAX_MODEL_LEN  16384 → 8192\nnothing was changed (--dry-run)\n",
        "",
    )


def test_a_variable_alone_changes_nothing_else(api, builder):
    builder("deploy", *CHAT, "--wait", "0", "--env", "LOG_FORMAT=json", "--env", "LOG_LEVEL=ERROR")
    arguments = (
        "--name",
        "chat",
        "--env",
        "MAX_MODEL_LEN=4096",
        "--env",
        "LOG_LEVEL=",
        "--dry-run",
    )
    assert builder("deploy", *arguments) == (
        0,
        "plan for chat (queue)\n  change template chat (tpl-3)\n"
        "  change endpoint chat (ep-4)\n"
        "    env.LOG_LEVEL      ERROR → nothing\n    env.MAX_MODEL_LEN  nothing → 4096\n"
        "nothing was changed (--dry-run)\n",
        "",
    )


def test_a_dry_run_asks_nobody_to_change(api, builder):
    assert builder("deploy", *CHAT, "--dry-run") == (
        0,
        NEW + "nothing was changed (--dry-run)\n",
        "",
    )
    assert [method for method, *_ in api.asked] == ["GET", "GET"]


def test_a_dry_run_without_a_key_shows_the_plan_of_a_new_endpoint(api, builder):
    assert builder("deploy", *CHAT, "--dry-run", RUNPOD_API_KEY="") == (
        0,
        "RUNPOD_API_KEY is not set: this is the plan for a new endpoint\n"
        + NEW
        + "nothing was changed (--dry-run)\n",
        "",
    )
    assert api.asked == []


def test_a_name_with_the_old_mark_of_flashboot_is_the_same_endpoint(api, builder):
    api.endpoints = {"ep-a": {"id": "ep-a", **ENDPOINT, "name": "chat -fb"}}
    code, out, _ = builder("deploy", *CHAT, "--wait", "0", "--dry-run")
    assert code == 0
    assert "endpoint" not in out
