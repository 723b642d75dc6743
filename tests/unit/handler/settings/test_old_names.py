"""Old names of variables become today's, with a line in the log; nothing is guessed beyond that."""

import json

import pytest

from handler.errors import InvalidSetting
from handler.settings.environ import load_settings, setting_variables
from handler.settings.old_names import METHOD_NAMES, SPECULATIVE_SETTINGS, translate_old_names


def made(engine="vllm", **environ):
    return translate_old_names(engine, environ)[0]


@pytest.mark.parametrize(
    ("task", "variables"),
    [
        ("generate", {"RUNNER": "generate"}),
        ("embed", {"RUNNER": "pooling", "CONVERT": "embed"}),
        ("embedding", {"RUNNER": "pooling", "CONVERT": "embed"}),
        ("classify", {"RUNNER": "pooling", "CONVERT": "classify"}),
        ("score", {"RUNNER": "pooling", "CONVERT": "classify"}),
        ("reward", {"RUNNER": "pooling"}),
        ("transcription", {"RUNNER": "generate"}),
        ("auto", {}),
        ("None", {"TASK": "None"}),
    ],
)
def test_a_task_is_a_runner_and_a_conversion(task, variables):
    assert made(TASK=task) == variables
    assert made("sglang", TASK=task).get("RUNNER") == variables.get("RUNNER")


@pytest.mark.parametrize(
    ("environ", "variables"),
    [
        ({"CUDA_GRAPH_SIZES": "64"}, {"MAX_CUDAGRAPH_CAPTURE_SIZE": "64"}),
        ({"CUDA_GRAPH_SIZES": "[1, 2,4]"}, {"CUDAGRAPH_CAPTURE_SIZES": "1 2 4"}),
        ({"LIMIT_MM_PER_PROMPT": '{"image": 2}'}, {"LIMIT_MM_PER_PROMPT": '{"image": 2}'}),
        (
            {"LIMIT_MM_PER_PROMPT": "image=2, video=0"},
            {"LIMIT_MM_PER_PROMPT": '{"image": 2, "video": 0}'},
        ),
        ({"WORKER_USE_RAY": "False"}, {}),
        ({"WORKER_USE_RAY": "1"}, {"DISTRIBUTED_EXECUTOR_BACKEND": "ray"}),
        ({"GUIDED_DECODING_BACKEND": "outlines"}, {}),
        ({"OPENAI_RESPONSE_ROLE": ""}, {"OPENAI_RESPONSE_ROLE": ""}),
        (
            {
                "GUIDED_DECODING_BACKEND": "xgrammar",
                "GUIDED_DECODING_DISABLE_ANY_WHITESPACE": "true",
                "STRUCTURED_OUTPUTS_CONFIG": '{"enable_in_reasoning": true}',
            },
            {
                "STRUCTURED_OUTPUTS_CONFIG": '{"enable_in_reasoning": true, "backend": "xgrammar",'
                ' "disable_any_whitespace": true}'
            },
        ),
    ],
)
def test_a_value_is_converted_with_its_name(environ, variables):
    """A switch that is off leaves nothing; fields of one JSON setting come together."""
    assert made(**environ) == variables


def test_each_translation_is_one_line():
    _, notes = translate_old_names(
        "vllm",
        {"TASK": "embed", "GUIDED_DECODING_BACKEND": "outlines", "WORKER_USE_RAY": "false"},
    )
    assert notes == [
        "TASK=embed is read as RUNNER=pooling and CONVERT=embed",
        "GUIDED_DECODING_BACKEND=outlines has no effect: the engine chooses",
    ]


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"TASK": "chat"},
            "TASK='chat' must be one of auto, generate, transcription, embed, embedding, "
            "classify, score, reward; or set RUNNER, CONVERT.",
        ),
        ({"EPLB_WINDOW_SIZE": "many"}, "EPLB_WINDOW_SIZE='many' must be a whole number."),
        ({"WORKER_USE_RAY": "maybe"}, "WORKER_USE_RAY='maybe' must be true or false."),
        (
            {"TASK": "embed", "RUNNER": "generate"},
            "TASK and RUNNER='generate' are one setting with two values: remove TASK.",
        ),
        (
            {"EPLB_WINDOW_SIZE": "7", "EPLB_CONFIG": '{"window_size": 8}'},
            "EPLB_WINDOW_SIZE and EPLB_CONFIG='{\"window_size\": 8}' are one setting with two "
            "values: remove EPLB_WINDOW_SIZE.",
        ),
    ],
    ids=["choice", "number", "boolean", "two names", "two fields"],
)
def test_a_value_that_means_nothing_is_refused(environ, message):
    with pytest.raises(InvalidSetting) as caught:
        made(**environ)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("environ", "method", "model"),
    [
        ({"SPECULATIVE_MODEL": "org/small"}, "draft", "org/small"),
        ({"SPECULATIVE_MODEL": "org/Big-EAGLE3"}, "eagle3", "org/Big-EAGLE3"),
        ({"SPECULATIVE_MODEL": "org/eagle-head"}, "eagle", "org/eagle-head"),
        ({"SPECULATIVE_MODEL": "[ngram]"}, "ngram", None),
        ({"SPECULATIVE_METHOD": "none", "NGRAM_PROMPT_LOOKUP_MAX": "4"}, "none", None),
        ({"NGRAM_PROMPT_LOOKUP_MAX": "0"}, "none", None),
        ({"SPECULATIVE_MODEL": "None"}, "none", "None"),
    ],
)
def test_the_method_is_guessed_as_worker_vllm_did(environ, method, model):
    """Where nothing names it; zero and None are unset."""
    settings_of = made(**environ)
    assert (
        settings_of.get("SPECULATIVE_METHOD", "none"),
        settings_of.get("SPECULATIVE_MODEL"),
    ) == (
        method,
        model,
    )


@pytest.mark.parametrize(
    ("environ", "config"),
    [
        (
            {"NGRAM_PROMPT_LOOKUP_MAX": "5", "NGRAM_PROMPT_LOOKUP_MIN": "2"},
            {
                "method": "ngram",
                "num_speculative_tokens": 4,
                "prompt_lookup_max": 5,
                "prompt_lookup_min": 2,
            },
        ),
        (
            {
                "SPECULATIVE_METHOD": "draft",
                "SPECULATIVE_MODEL": "org/small",
                "SPECULATIVE_MODEL_REVISION": "123",
                "NUM_SPECULATIVE_TOKENS": "7",
                "SPECULATIVE_MAX_MODEL_LEN": "2048",
                "SPECULATIVE_ENFORCE_EAGER": "True",
                "SPECULATIVE_QUANTIZATION": "None",
                "NGRAM_PROMPT_LOOKUP_MAX": "0",
            },
            {
                "method": "draft_model",
                "num_speculative_tokens": 7,
                "model": "org/small",
                "revision": "123",
                "enforce_eager": True,
                "max_model_len": 2048,
            },
        ),
    ],
    ids=["ngram", "draft"],
)
def test_fields_of_speculation_become_vllms_json(environ, config):
    """The draft model in it is found as SPECULATIVE_MODEL is."""
    settings = load_settings(environ)
    assert json.loads(settings.speculative_config) == config
    assert (settings.speculative_method, settings.num_speculative_tokens) == ("none", None)


def test_the_other_settings_of_speculation_are_in_the_json():
    """Under each of their names, so that none is left beside it."""
    fields = {"model", "revision", "num_speculative_tokens"}
    of_settings = {
        name
        for field, names in setting_variables().items()
        if field in {"speculative_model", "speculative_model_revision", "num_speculative_tokens"}
        for name in names
    }
    assert of_settings == SPECULATIVE_SETTINGS.keys()
    assert {field for field, _ in SPECULATIVE_SETTINGS.values()} == fields
    assert set(METHOD_NAMES) == set(setting_variables()["speculative_method"])


def test_a_method_that_is_guessed_and_its_fields_are_a_line_each():
    _, notes = translate_old_names("vllm", {"NGRAM_PROMPT_LOOKUP_MAX": "4"})
    assert notes == [
        "SPECULATIVE_METHOD is not set and read as ngram",
        'NGRAM_PROMPT_LOOKUP_MAX: read as SPECULATIVE_CONFIG={"method": "ngram", '
        '"num_speculative_tokens": 4, "prompt_lookup_max": 4}',
    ]


def test_speculative_config_wins_over_its_fields():
    environ = {"SPECULATIVE_CONFIG": "{}", "NGRAM_PROMPT_LOOKUP_MAX": "4"}
    assert made(**environ) == environ


def test_sglang_gets_the_method_only():
    assert made("sglang", NGRAM_PROMPT_LOOKUP_MAX="4") == {
        "NGRAM_PROMPT_LOOKUP_MAX": "4",
        "SPECULATIVE_METHOD": "ngram",
    }
