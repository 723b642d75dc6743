"""What is asked for: presets, secrets, and orders that mean nothing."""

import pytest

from builder.deploy.endpoint_config import find_preset, model_slug, preset_slug
from builder.presets import PRESETS
from tests.integration.builder.deploy.conftest import CHAT, snippet
from tests.support.runpod_api import KEY, Fault

TOKEN = "hf_nobody_sees_this"
POOLS = (
    "AMPERE_16 (A4000, A4500, RTX 4000); AMPERE_24 (L4, A5000, RTX 3090); ADA_24 (RTX "
    "4090); ADA_32_PRO (RTX 5090); AMPERE_48 (A6000, A40); ADA_48_PRO (L40, L40S, 6000 Ada); "
    "AMPERE_80 (A100); ADA_80_PRO (H100); BLACKWELL_96 (RTX PRO 6000); HOPPER_141 (H200); "
    "BLACKWELL_180 (B200)"
)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: model_slug(preset.model))
def test_every_preset_is_deployed_by_either_word(preset, api, said):
    """Its model, its variables, its cards; the endpoint has the model's name."""
    word, name = preset_slug(preset), model_slug(preset.model)
    assert [find_preset(each) for each in (word, name, preset.model)] == [preset] * 3
    code, out, err = said("deploy", word, "--image", "me/worker:1", "--wait", "0")
    assert (code, err) == (0, "")
    (made,) = api.sent("POST", "/v2/serverless")
    assert made["name"] == name
    assert made["env"] == preset.variables()
    assert made["gpu"]["pools"] == list(preset.gpu_pools)
    assert made["gpu"]["count"] == preset.gpu_count
    note = "note: this preset needs the image with SGLang\n"
    assert out.startswith(note) == (preset.engine == "sglang")


def test_a_secret_comes_from_the_environment_and_is_shown_nowhere(api, said):
    """It is the endpoint's, not the template's; it stays when the rest is said again."""
    environ = {"HF_TOKEN": TOKEN, "MY_WORD": "a-private-word"}
    private = (*CHAT, "-e", "HF_TOKEN", "-e", "MY_WORD")
    code, out, err = said("deploy", *private, **environ)
    assert (code, err) == (0, "")
    assert "    env.HF_TOKEN         ***\n    env.MODEL_NAME       org/model\n" in out
    assert "    env.MY_WORD          ***\n" in out
    (made,) = api.sent("POST", "/v2/serverless")
    assert made["env"] == {"MODEL_NAME": "org/model", **environ}
    (template,) = api.sent("POST", "/v2/templates")
    assert template["env"] == {"MODEL_NAME": "org/model"}
    code, again, err = said("deploy", *CHAT, "-e", "MY_WORD", "--wait", "0", MY_WORD="another-word")
    assert (code, err) == (0, "")
    assert "  change endpoint chat (ep-4)\n    env.MY_WORD  *** → ***\n" in again
    assert api.endpoints["ep-4"]["env"]["HF_TOKEN"] == TOKEN
    code, removed, err = said(
        "deploy", *CHAT, "-e", "HF_TOKEN=", "-e", "MY_WORD", "--wait=0", **environ
    )
    assert "    env.HF_TOKEN  *** → nothing\n" in removed
    assert api.endpoints["ep-4"]["env"] == {"MODEL_NAME": "org/model", "MY_WORD": "a-private-word"}
    last = said("deploy", *CHAT, "--wait", "0")[1]
    assert "    env.MY_WORD  *** → nothing\n" in last
    for text in (out, again, removed, last):
        assert not any(word in text for word in (KEY, TOKEN, "a-private-word", "another-word"))


def test_a_private_variable_stays_private_when_nothing_is_said_of_the_environment(api, said):
    """It does not come into the template, whether that is there or made anew."""
    said("deploy", *CHAT, "-e", "MY_WORD", "--wait", "0", MY_WORD="a-private-word")
    for templates in (api.templates, {}):
        api.templates = templates
        code, out, err = said("deploy", "--name", "chat", "--disk", str(9 + len(templates)))
        assert (code, err) == (0, "")
        assert "private" not in out
        (template,) = api.templates.values()
        assert template["env"] == {"MODEL_NAME": "org/model"}
    assert "MY_WORD" in str(api.endpoints)


def test_a_secret_in_what_the_api_says_is_shown_as_stars(api, said):
    """An error may repeat what was sent."""
    api.faults = [Fault("POST", "/v2/serverless", 422, f"env: {TOKEN} of {KEY} is too long")]
    code, _, err = said("deploy", *CHAT, "-e", "HF_TOKEN", HF_TOKEN=TOKEN)
    assert (code, err) == (
        6,
        "deploy: Runpod refuses endpoint chat with 422: env: *** of *** is too long.\n",
    )


@pytest.mark.parametrize("reference", ["{{ RUNPOD_SECRET_hub }}", "{{RUNPOD_SECRET_hub}}"])
def test_a_reference_to_a_secret_of_the_account_is_shown_and_stays(reference, api, said):
    """The platform puts the secret there at a worker's start: what it will be is not judged."""
    names = ("HF_TOKEN", "MAX_CONCURRENCY", "MY_BUCKET")
    given = [f"--env={name}={reference}" for name in names]
    code, out, err = said("deploy", *CHAT, *given, "--wait", "0")
    assert (code, err) == (0, "")
    assert (
        f"    env.HF_TOKEN         {reference}\n    env.MAX_CONCURRENCY  {reference}\n"
        f"    env.MODEL_NAME       org/model\n    env.MY_BUCKET        {reference}\n"
    ) in out
    assert said("deploy", *CHAT, "--wait", "0") == (
        0,
        "plan for chat (queue)\n  nothing to change\n"
        + snippet("API/queue/ep-4/openai/v1", "org/model"),
        "",
    )
    environment = {"MODEL_NAME": "org/model", **dict.fromkeys(names, reference)}
    assert api.endpoints["ep-4"]["env"] == environment
    assert said("deploy", *CHAT, "--env=MY_BUCKET=", "--dry-run")[1] == (
        "plan for chat (queue)\n"
        "  change template chat (tpl-3)\n    env.MY_BUCKET  *** → nothing\n"
        "  change endpoint chat (ep-4)\n    env.MY_BUCKET  *** → nothing\n"
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
            ["small-awk"], "There is no preset 'small-awk': did you mean small-awq?", id="near"
        ),
        pytest.param(
            ["banana"],
            "There is no preset 'banana': must be one of 8b-fp8, small-awq, 70b-awq, 70b-fp8, "
            "coder-with-n-gram-speculation, agents-on-sglang.",
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
            "--env HF_TOKEN=… shows a secret to whoever lists processes: export HF_TOKEN and give "
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
def test_an_order_that_means_nothing_is_refused_before_anything_is_made(
    arguments, sentence, api, said
):
    """Code 2, and one sentence; a worker's settings are judged as its start does."""
    code, _, err = said("deploy", *arguments)
    assert (code, err) == (2, f"deploy: {sentence}\n")
    assert api.changes() == []


def test_a_variable_without_effect_is_named_as_the_start_names_it(said):
    """It is no error there either."""
    code, out, _ = said("deploy", *CHAT, "--dry-run", "-e", "MAX_MODEL_LENGTH=8", "-e", "MY_OWN=1")
    assert code == 0
    assert out.startswith(
        "note: MAX_MODEL_LENGTH is not a setting and has no effect: did you mean MAX_MODEL_LEN?\n"
        "plan for chat (queue)\n"
    )


SMALL = ("small-awq", "--image", "i")
LARGE = ("70b-awq", "--image", "i")
PIPELINE = "PIPELINE_PARALLEL_SIZE=2"


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        pytest.param(
            [*LARGE, "--gpu-count", "4"],
            "a worker has 4 GPUs, and TENSOR_PARALLEL_SIZE=2 uses 2: give --gpu-count 2, or "
            "--env TENSOR_PARALLEL_SIZE=auto for all GPUs",
            id="preset-and-more",
        ),
        pytest.param(
            [*SMALL, "--gpu-count", "2"],
            "a worker has 2 GPUs, and without TENSOR_PARALLEL_SIZE the model uses 1: give "
            "--gpu-count 1, or --env TENSOR_PARALLEL_SIZE=auto for all GPUs",
            id="preset-without",
        ),
        pytest.param(
            [*SMALL, "-e", "TP_SIZE=2"],
            "a worker has 1 GPU, and TP_SIZE=2 uses 2: give --gpu-count 2, or --env TP_SIZE=auto "
            "for all GPUs",
            id="the-other-name",
        ),
        pytest.param(
            [*LARGE, "-e", PIPELINE],
            f"a worker has 2 GPUs, and TENSOR_PARALLEL_SIZE=2 × {PIPELINE} uses 4: give "
            "--gpu-count 4, or --env TENSOR_PARALLEL_SIZE=auto for all GPUs",
            id="pipeline",
        ),
        pytest.param(
            [*SMALL, "-e", PIPELINE],
            f"a worker has 1 GPU, and {PIPELINE} uses 2: give --gpu-count 2",
            id="pipeline-alone",
        ),
        pytest.param([*LARGE, "-e", PIPELINE, "--gpu-count", "4"], None, id="product"),
        pytest.param([*LARGE, "-e", "TENSOR_PARALLEL_SIZE=auto", "--gpu-count=8"], None, id="auto"),
        pytest.param([*SMALL, "-e", "DATA_PARALLEL_SIZE=2", "--gpu-count=2"], None, id="copies"),
        pytest.param([*SMALL, "-e", "ENGINE_ARGS=-tp 2", "--gpu-count=2"], None, id="engine-args"),
    ],
)
def test_gpus_that_a_worker_lacks_or_leaves_idle_are_noted(arguments, note, said):
    """The number of a worker's GPUs and how the model is spread over them are said apart."""
    code, out, err = said("deploy", *arguments, "--dry-run")
    assert (code, err) == (0, "")
    assert out.partition("plan for ")[0] == (f"note: {note}\n" if note else "")


def test_gpus_of_an_endpoint_that_is_there_are_compared_too(said):
    """What was not said stays."""
    said("deploy", *CHAT, "--gpu-count", "2", "-e", "TENSOR_PARALLEL_SIZE=2", "--wait", "0")
    assert said("deploy", "--name", "chat", "--max", "4", "--dry-run")[1].startswith("plan for")
    assert said("deploy", *CHAT, "-e", "TENSOR_PARALLEL_SIZE=4", "--dry-run")[1].startswith(
        "note: a worker has 2 GPUs, and TENSOR_PARALLEL_SIZE=4 uses 4: give --gpu-count 4, or "
        "--env TENSOR_PARALLEL_SIZE=auto for all GPUs\nplan for"
    )


@pytest.mark.parametrize(
    ("model", "is_noted"),
    [
        *((path, True) for path in ("/models/x", "./x", "../x", "models/x")),
        *((name, False) for name in ("org/model", "models/y")),
    ],
)
def test_a_model_in_a_folder_is_noted(model, is_noted, said, tmp_path, monkeypatch):
    """The endpoint has what its image has, not what is here."""
    (tmp_path / "models/x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    code, out, err = said("deploy", *CHAT, "--model", model, "--dry-run")
    assert (code, err) == (0, "")
    assert out.partition("plan for ")[0] == (
        f"note: MODEL_NAME={model} is a folder's path: the endpoint has no such folder unless its "
        "image or its volume does\n"
        if is_noted
        else ""
    )


def test_a_presets_model_is_the_repository_whatever_folders_are_here(said, tmp_path, monkeypatch):
    """It was not typed as a path."""
    (tmp_path / find_preset("small-awq").model).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert said("deploy", *SMALL, "--dry-run")[1].startswith("plan for")


def test_the_least_and_the_most_workers_are_compared_with_what_is_there(api, said):
    """To stop an endpoint that always has one, both are said."""
    said("deploy", *CHAT, "--min", "1", "--wait", "0")
    before = api.changes()
    assert said("deploy", "--name", "chat", "--max", "0") == (
        2,
        "",
        "deploy: workers.min would be 1 and workers.max 0: give a --min of at most 0, or a --max "
        "of at least 1.\n",
    )
    assert api.changes() == before
    assert said("deploy", "--name", "chat", "--min", "0", "--max", "0")[0] == 0


def test_the_type_of_an_endpoint_cannot_be_changed(api, said):
    """The API has no field for it."""
    said("deploy", *CHAT, "--wait", "0")
    code, out, err = said("deploy", *CHAT, "--type", "lb")
    assert (code, out, err) == (
        2,
        "",
        "deploy: Endpoint chat has the type QUEUE, which cannot be changed: delete it first "
        "(python -m builder delete chat), or choose another --name.\n",
    )


@pytest.mark.parametrize("name", ["deploy", "status", "logs", "delete"])
def test_help_has_the_exit_codes(name, said, capsys):
    """And for `deploy` the presets."""
    with pytest.raises(SystemExit) as ended:
        said(name, "--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python -m builder {name} [-h]")
    assert "no credit (402)" in text
    words = [preset_slug(preset) for preset in PRESETS]
    assert all(word in text for word in words) == (name == "deploy")


def test_a_setting_that_was_said_as_a_secret_stays_one(api, said):
    """Whatever is said later: the template has what was said openly."""
    private = ("-e", "PROMETHEUS_PUSHGATEWAY", "-e", "LOG_LEVEL=INFO", "--wait", "0")
    address = "https://push.example/a-private-path"
    said("deploy", *CHAT, *private, PROMETHEUS_PUSHGATEWAY=address)
    printed = [
        said("deploy", "--name", "chat", "-e", "LOG_LEVEL=DEBUG", "--wait", "0")[1],
        said("deploy", *CHAT, "--dry-run")[1],
        said("deploy", "--name=chat", "--dry-run", "-e", "PROMETHEUS_PUSHGATEWAY=http://open")[1],
    ]
    assert "private" not in "".join(printed)
    assert "env.LOG_LEVEL  INFO → DEBUG\n" in printed[0]
    assert "    env.PROMETHEUS_PUSHGATEWAY  *** → nothing\n" in printed[1]
    assert "    env.PROMETHEUS_PUSHGATEWAY  *** → http://open\n" in printed[2]
    assert api.templates["tpl-3"]["env"] == {"MODEL_NAME": "org/model", "LOG_LEVEL": "DEBUG"}
    assert api.endpoints["ep-4"]["env"]["PROMETHEUS_PUSHGATEWAY"] == address


def test_a_value_from_elsewhere_is_not_shown_and_the_template_keeps_its_own(api, said):
    """Somebody has changed the endpoint in the console."""
    said("deploy", *CHAT, "-e", "LOG_LEVEL=INFO", "--wait", "0")
    api.endpoints["ep-4"]["env"]["LOG_LEVEL"] = "WARNING"
    out = said("deploy", "--name", "chat", "-e", "LOG_FORMAT=json", "--wait", "0")[1]
    assert "WARNING" not in out
    assert api.templates["tpl-3"]["env"] == {
        "MODEL_NAME": "org/model",
        "LOG_LEVEL": "INFO",
        "LOG_FORMAT": "json",
    }


def test_a_models_name_is_never_a_secret(said):
    """Callers need it, so it is in what they paste."""
    code, out, _ = said("deploy", *CHAT[:2], *CHAT[4:], "-e", "MODEL_NAME", MODEL_NAME="org/mine")
    assert code == 0
    assert "org/mine\n" in out.partition("create endpoint")[0]


def test_an_endpoint_with_the_other_engine_can_be_changed(api, said):
    """Its image is not told here: only what neither engine knows is noted."""
    only = ("-e", "ENABLE_HIERARCHICAL_CACHE=true")
    assert said("deploy", *CHAT, "-e", "ENGINE=sglang", *only, "--wait", "0")[0] == 0
    del api.endpoints["ep-4"]["env"]["ENGINE"]
    assert said("deploy", "--name", "chat", "--max", "6", "--wait", "0")[0] == 0
    code, out, err = said("deploy", "--name", "chat", "-e", "MAX_NUM_SEQ=8", "--wait", "0")
    assert (code, err) == (0, "")
    assert out.startswith(
        "note: MAX_NUM_SEQ is not a setting and has no effect: did you mean MAX_NUM_SEQS?\nplan"
    )


def test_a_port_that_was_chosen_stays(api, said):
    """Of a load balancer, when something else is said."""
    balancer = (*CHAT, "--type", "lb", "-e", "PORT=9000", "--wait", "0")
    said("deploy", *balancer)
    assert api.endpoints["ep-4"]["ports"] == ["9000/http"]
    out = said("deploy", "--name", "chat", "-e", "LOG_LEVEL=DEBUG", "--wait", "0")[1]
    assert "PORT" not in out
    assert api.endpoints["ep-4"]["ports"] == ["9000/http"]
    assert api.endpoints["ep-4"]["env"]["PORT"] == "9000"
