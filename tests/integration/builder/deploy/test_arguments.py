"""What is asked for: presets, secrets, and invalid ones."""

import pytest

from builder.presets import PRESETS, find_preset, model_slug, preset_slug
from tests.integration.builder.deploy.conftest import CHAT, snippet
from tests.support.runpod_api import KEY, Fault

TOKEN = "hf_nobody_sees_this"
POOLS = (
    "AMPERE_16 (A4000, A4500, RTX 4000 Ada); AMPERE_24 (L4, A5000, RTX 3090); ADA_24 (RTX "
    "4090); ADA_32_PRO (RTX 5090); AMPERE_48 (A6000, A40); ADA_48_PRO (L40, L40S, 6000 Ada); "
    "AMPERE_80 (A100); ADA_80_PRO (H100); BLACKWELL_96 (RTX PRO 6000); HOPPER_141 (H200); "
    "BLACKWELL_180 (B200)"
)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: model_slug(preset.model))
def test_every_preset_is_deployed_by_either_name(preset, api, builder):
    word, name = preset_slug(preset), model_slug(preset.model)
    assert [find_preset(each) for each in (word, name, preset.model)] == [preset] * 3
    code, out, err = builder("deploy", word, "--image", "me/worker:1", "--wait", "0")
    assert (code, err) == (0, "")
    (made,) = api.sent("POST", "/v2/serverless")
    assert made["name"] == name
    assert made["env"] == preset.variables()
    assert made["gpu"]["pools"] == list(preset.gpu_pools)
    assert made["gpu"]["count"] == preset.gpu_count
    note = "note: this preset needs the image with SGLang\n"
    assert out.startswith(note) == (preset.engine == "sglang")


@pytest.mark.parametrize(
    ("arguments", "several"),
    [
        (["--gpu", "ADA_24,AMPERE_24"], "kinds of GPUs"),
        (
            ["--gpu", "ADA_24,AMPERE_24", "--volume", "vol-1,vol-2"],
            "kinds of GPUs and network volumes",
        ),
        (["--volume", "vol-1"], None),
        (["--gpu", "ADA_24,AMPERE_24", "-e", "STARTUP_ERROR_SECONDS=0"], None),
    ],
    ids=["GPUs", "volumes", "one of each", "set"],
)
def test_workers_that_differ_are_noted(api, builder, arguments, several):
    """One may fail the jobs that another could answer."""
    api.volumes.add("vol-2")
    code, out, _ = builder("deploy", *CHAT, "--dry-run", *arguments)
    first = out.splitlines()[0]
    assert code == 0
    assert first.startswith(f"note: several {several}: " if several else "plan for chat")


def test_a_secret_comes_from_the_environment_and_is_shown_nowhere(api, builder):
    environ = {"HF_TOKEN": TOKEN, "MY_WORD": "a-private-word"}
    private = (*CHAT, "-e", "HF_TOKEN", "-e", "MY_WORD")
    code, out, err = builder("deploy", *private, **environ)
    assert (code, err) == (0, "")
    assert "    env.HF_TOKEN         ***\n    env.MODEL_NAME       org/model\n" in out
    assert "    env.MY_WORD          ***\n" in out
    (made,) = api.sent("POST", "/v2/serverless")
    assert made["env"] == {"MODEL_NAME": "org/model", **environ}
    (template,) = api.sent("POST", "/v2/templates")
    assert template["env"] == {"MODEL_NAME": "org/model"}
    code, again, err = builder(
        "deploy", *CHAT, "-e", "MY_WORD", "--wait", "0", MY_WORD="another-word"
    )
    assert (code, err) == (0, "")
    assert "  change endpoint chat (ep-4)\n    env.MY_WORD  *** → ***\n" in again
    assert api.endpoints["ep-4"]["env"]["HF_TOKEN"] == TOKEN
    code, removed, err = builder(
        "deploy", *CHAT, "-e", "HF_TOKEN=", "-e", "MY_WORD", "--wait=0", **environ
    )
    assert "    env.HF_TOKEN  *** → nothing\n" in removed
    assert api.endpoints["ep-4"]["env"] == {"MODEL_NAME": "org/model", "MY_WORD": "a-private-word"}
    last = builder("deploy", *CHAT, "--wait", "0")[1]
    assert "    env.MY_WORD  *** → nothing\n" in last
    for text in (out, again, removed, last):
        assert not any(word in text for word in (KEY, TOKEN, "a-private-word", "another-word"))


def test_a_private_variable_stays_private_when_no_variable_is_given(api, builder):
    builder("deploy", *CHAT, "-e", "MY_WORD", "--wait", "0", MY_WORD="a-private-word")
    for templates in (api.templates, {}):
        api.templates = templates
        code, out, err = builder("deploy", "--name", "chat", "--disk", str(9 + len(templates)))
        assert (code, err) == (0, "")
        assert "private" not in out
        (template,) = api.templates.values()
        assert template["env"] == {"MODEL_NAME": "org/model"}
    assert "MY_WORD" in str(api.endpoints)


def test_a_secret_in_what_the_api_says_is_shown_as_stars(api, builder):
    api.faults = [Fault("POST", "/v2/serverless", 422, f"env: {TOKEN} of {KEY} is too long")]
    code, _, err = builder("deploy", *CHAT, "-e", "HF_TOKEN", HF_TOKEN=TOKEN)
    assert (code, err) == (
        6,
        "deploy: Runpod refuses endpoint chat with 422: env: *** of *** is too long.\n",
    )


def test_an_invalid_setting_that_was_given_as_a_secret_is_shown_as_stars(builder):
    code, _, err = builder("deploy", *CHAT, "-e", "LOG_FORMAT", LOG_FORMAT="a-private-word")
    assert (code, err) == (2, "deploy: LOG_FORMAT='***' must be 'text' or 'json'.\n")


@pytest.mark.parametrize("reference", ["{{ RUNPOD_SECRET_hub }}", "{{RUNPOD_SECRET_hub}}"])
def test_a_reference_to_a_secret_of_the_account_is_shown_and_stays(reference, api, builder):
    names = ("HF_TOKEN", "MAX_CONCURRENCY", "MY_BUCKET")
    given = [f"--env={name}={reference}" for name in names]
    code, out, err = builder("deploy", *CHAT, *given, "--wait", "0")
    assert (code, err) == (0, "")
    assert (
        f"    env.HF_TOKEN         {reference}\n    env.MAX_CONCURRENCY  {reference}\n"
        f"    env.MODEL_NAME       org/model\n    env.MY_BUCKET        {reference}\n"
    ) in out
    assert builder("deploy", *CHAT, "--wait", "0") == (
        0,
        "plan for chat (queue)\n  nothing to change\n"
        + snippet("API/queue/ep-4/openai/v1", "org/model"),
        "",
    )
    environment = {"MODEL_NAME": "org/model", **dict.fromkeys(names, reference)}
    assert api.endpoints["ep-4"]["env"] == environment
    assert builder("deploy", *CHAT, "--env=MY_BUCKET=", "--dry-run")[1] == (
        "plan for chat (queue)\n"
        "  change template chat (tpl-3)\n"
        f"  change endpoint chat (ep-4)\n    env.MY_BUCKET  {reference} → nothing\n"
        "nothing was changed (--dry-run)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(
            ["--image", "i"],
            "Give a preset (--help lists them), --model or --name.",
            id="nothing",
        ),
        pytest.param(
            ["banana"],
            "There is no preset 'banana': must be one of 8b-fp8, tiny-fp8, small-awq, "
            "llama-8b-fp8, "
            "gpt-oss-20b, gpt-oss-120b, 27b-fp8, 35b-moe-fp8, 31b-fp8, coder-fp8, 70b-awq, "
            "70b-fp8, embeddings-fp8, agents-on-sglang.",
            id="preset",
        ),
        pytest.param(
            ["small-awq"],
            "There is no endpoint qwen2.5-7b-instruct-awq yet, and a new one needs --image "
            "REGISTRY/NAME:TAG, the worker's image.",
            id="image",
        ),
        pytest.param(
            ["--model", "org/model", "--image", "i"],
            "There is no endpoint model yet, and a new one needs --gpu, GPU pools that fit the "
            "model, such as ADA_24,AMPERE_24, or a preset.",
            id="gpu",
        ),
        pytest.param(
            ["small-awq", "--image", "i", "-e", "HF_TOKEN"],
            "--env HF_TOKEN: export HF_TOKEN first.",
            id="not-set",
        ),
        pytest.param(
            ["small-awq", "--image", "i", "-e", f"HF_TOKEN={TOKEN}"],
            "--env HF_TOKEN=… exposes a secret in the list of processes: export HF_TOKEN and give "
            "--env HF_TOKEN, or --env 'HF_TOKEN={{ RUNPOD_SECRET_name }}'.",
            id="secret-in-arguments",
        ),
        pytest.param(
            ["small-awq", "--image", "i", "-e", "A B=1"],
            "--env 'A B=1' must be NAME=VALUE, NAME or NAME=.",
            id="no-name",
        ),
        pytest.param(
            ["small-awq", "--image", "i", "-e", "LOG_FORMAT=xml"],
            "LOG_FORMAT='xml' must be 'text' or 'json'.",
            id="a-setting",
        ),
        *(
            pytest.param(
                [*CHAT, "--gpu", pools],
                f"--gpu {pools!r} must be one or more of {POOLS}.",
                id=f"gpu-{pools}",
            )
            for pools in ("ADA_24,H100", "ADA_24,rtx 4090", "L4", "ADA_25", ",")
        ),
        pytest.param(
            [*CHAT, "--min", "5", "--max", "2"],
            "workers.min would be 5 and workers.max 2: give a --min of at most 2, or a --max of at "
            "least 5.",
            id="min-and-max",
        ),
        pytest.param(
            [*CHAT, "--min", "5"],
            "workers.min would be 5 and workers.max 3: give a --min of at most 3, or a --max of at "
            "least 5.",
            id="min-and-the-usual-max",
        ),
        pytest.param(
            [*CHAT, "--image", "me/worker 1"],
            "--image 'me/worker 1' must be one word without spaces.",
            id="image-with-a-space",
        ),
        pytest.param(
            [*CHAT, "--name", "my chat"],
            "--name 'my chat' must be one word without spaces.",
            id="name-with-a-space",
        ),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_created(
    arguments, sentence, api, builder
):
    code, _, err = builder("deploy", *arguments)
    assert (code, err) == (2, f"deploy: {sentence}\n")
    assert api.changes() == []


def test_min_and_max_workers_are_compared_with_those_of_the_endpoint(api, builder):
    builder("deploy", *CHAT, "--min", "1", "--wait", "0")
    before = api.changes()
    assert builder("deploy", "--name", "chat", "--max", "0") == (
        2,
        "",
        "deploy: workers.min would be 1 and workers.max 0: give a --min of at most 0, or a --max "
        "of at least 1.\n",
    )
    assert api.changes() == before
    assert builder("deploy", "--name", "chat", "--min", "0", "--max", "0")[0] == 0


def test_the_type_of_an_endpoint_cannot_be_changed(api, builder):
    builder("deploy", *CHAT, "--wait", "0")
    code, out, err = builder("deploy", *CHAT, "--type", "lb")
    assert (code, out, err) == (
        2,
        "",
        "deploy: Endpoint chat has the type QUEUE, which cannot be changed: delete it first "
        "(python -m builder delete chat), or choose another --name.\n",
    )


@pytest.mark.parametrize("name", ["deploy", "status", "logs", "delete"])
def test_help_has_the_exit_codes(name, builder, capsys):
    with pytest.raises(SystemExit) as ended:
        builder(name, "--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python -m builder {name} [-h]")
    assert "no credit (402)" in text
    words = [preset_slug(preset) for preset in PRESETS]
    assert all(word in text for word in words) == (name == "deploy")


def test_a_setting_that_was_given_as_a_secret_stays_one(api, builder):
    private = ("-e", "PROMETHEUS_PUSHGATEWAY", "-e", "LOG_LEVEL=INFO", "--wait", "0")
    address = "https://push.example/a-private-path"
    builder("deploy", *CHAT, *private, PROMETHEUS_PUSHGATEWAY=address)
    printed = [
        builder("deploy", "--name", "chat", "-e", "LOG_LEVEL=DEBUG", "--wait", "0")[1],
        builder("deploy", *CHAT, "--dry-run")[1],
        builder("deploy", "--name=chat", "--dry-run", "-e", "PROMETHEUS_PUSHGATEWAY=http://open")[
            1
        ],
    ]
    assert "private" not in "".join(printed)
    assert "env.LOG_LEVEL  INFO → DEBUG\n" in printed[0]
    assert "    env.PROMETHEUS_PUSHGATEWAY  *** → nothing\n" in printed[1]
    assert "    env.PROMETHEUS_PUSHGATEWAY  *** → http://open\n" in printed[2]
    assert api.templates["tpl-3"]["env"] == {"MODEL_NAME": "org/model", "LOG_LEVEL": "DEBUG"}
    assert api.endpoints["ep-4"]["env"]["PROMETHEUS_PUSHGATEWAY"] == address


def test_a_value_set_in_the_console_is_neither_shown_nor_put_into_the_template(api, builder):
    builder("deploy", *CHAT, "-e", "LOG_LEVEL=INFO", "--wait", "0")
    api.endpoints["ep-4"]["env"]["LOG_LEVEL"] = "WARNING"
    out = builder("deploy", "--name", "chat", "-e", "LOG_FORMAT=json", "--wait", "0")[1]
    assert "WARNING" not in out
    assert api.templates["tpl-3"]["env"] == {
        "MODEL_NAME": "org/model",
        "LOG_FORMAT": "json",
    }


def test_a_models_name_is_never_a_secret(api, builder):
    code, out, _ = builder(
        "deploy", *CHAT[:2], *CHAT[4:], "-e", "MODEL_NAME", MODEL_NAME="org/mine"
    )
    assert code == 0
    assert "    env.MODEL_NAME       org/mine\n" in out
    (template,) = api.sent("POST", "/v2/templates")
    assert template["env"] == {"MODEL_NAME": "org/mine"}


def test_an_endpoint_with_the_other_engine_can_be_changed(api, builder):
    only = ("-e", "ENABLE_HIERARCHICAL_CACHE=true")
    assert builder("deploy", *CHAT, "-e", "ENGINE=sglang", *only, "--wait", "0")[0] == 0
    del api.endpoints["ep-4"]["env"]["ENGINE"]
    assert builder("deploy", "--name", "chat", "--max", "6", "--wait", "0")[0] == 0


def test_a_port_that_was_chosen_stays(api, builder):
    balancer = (*CHAT, "--type", "lb", "-e", "PORT=9000", "--wait", "0")
    builder("deploy", *balancer)
    assert api.endpoints["ep-4"]["ports"] == ["9000/http"]
    out = builder("deploy", "--name", "chat", "-e", "LOG_LEVEL=DEBUG", "--wait", "0")[1]
    assert "PORT" not in out
    assert api.endpoints["ep-4"]["ports"] == ["9000/http"]
    assert api.endpoints["ep-4"]["env"]["PORT"] == "9000"
