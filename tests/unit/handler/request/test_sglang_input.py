"""The engines' own inputs: the fields that callers may use, and the names of adapters."""

import json

import pytest

from handler.errors import InvalidInput
from handler.request.parse import RequestParser

OWN = frozenset({"text", "input_ids", "lora_path", "http_worker_ipc"})
PATHS = {
    "/generate": OWN,
    "/encode": OWN,
    "/classify": OWN,
    "/pooling": frozenset({"input", "data"}),
}


def sent(route, body, paths=PATHS, models=("served", "adapter")):
    parser = RequestParser(models, "org/repository", paths)
    return json.loads(
        parser.parse_job({"id": "j1", "input": {"route": route, "body": body}}).request.body
    )


@pytest.mark.parametrize("route", ["/generate", "encode", "/classify"])
def test_an_own_input_goes_on_without_a_model(route):
    """SGLang's own routes have no such field."""
    body = {"text": ["Hi"], "sampling_params": {"max_new_tokens": 8}, "stream": True}
    assert sent(route, body | {"model": "org/repository"}) == body


@pytest.mark.parametrize("adapter", [{"model": "adapter"}, {"lora_path": "adapter"}])
def test_an_adapter_is_chosen_by_its_name(adapter):
    assert sent("generate", {"text": "Hi"} | adapter) == {"text": "Hi", "lora_path": "adapter"}


def test_each_text_may_have_its_adapter():
    body = {"text": ["a", "b"], "lora_path": [None, "adapter"]}
    assert sent("generate", body) == body


@pytest.mark.parametrize("path", ["/etc/passwd", "served", ["adapter", "/x"], {"a": 1}, 7])
def test_a_path_is_no_name_of_an_adapter(path):
    with pytest.raises(InvalidInput, match=r"lora_path must name a LoRA adapter \(adapter\), got"):
        sent("generate", {"text": "Hi", "lora_path": path})


def test_without_adapters_there_is_none_to_name():
    with pytest.raises(InvalidInput, match=r"\(there is none\)"):
        sent("generate", {"text": "Hi", "lora_path": "x"}, models=("served",))


@pytest.mark.parametrize(
    ("route", "name", "advice"),
    [
        ("generate", "http_worker_ipc", "."),
        ("encode", "encoder_urls", "."),
        ("classify", "bootstrap_host", "."),
        ("generate", "sampling_param", ": did you mean 'sampling_params'?"),
    ],
)
def test_a_field_that_is_not_for_callers_is_refused(route, name, advice):
    """Such as the address of another process, to which SGLang would send the answer."""
    with pytest.raises(InvalidInput) as caught:
        sent(route, {"text": "Hi", name: "x"})
    assert str(caught.value) == f"/{route} does not accept the field {name!r}{advice}"
    assert caught.value.param == name


def test_classify_is_openais_where_the_engine_takes_an_input():
    """vLLM's, with fields of its own."""
    fields = {"/classify": frozenset({"input", "model", "truncate_prompt_tokens"})}
    body = {"input": "Hi", "truncate_prompt_tokens": 8}
    assert sent("classify", body, fields) == body | {"model": "served"}


def test_a_plugins_data_is_refused():
    """The plugin would fetch a URL itself."""
    with pytest.raises(InvalidInput, match="data is not supported"):
        sent("pooling", {"data": {"data": "http://169.254.169.254/"}})
    with pytest.raises(InvalidInput, match="data is not supported"):
        sent("pooling", {"extra_body": {"data": {"data": "http://169.254.169.254/"}}})
    assert sent("pooling", {"input": "Hi"}) == {"input": "Hi", "model": "served"}


def test_a_job_has_no_background():
    """Its worker would keep the response, and nobody would find it."""
    with pytest.raises(InvalidInput, match="background is not supported"):
        sent("responses", {"input": "Hi", "background": True})
    with pytest.raises(InvalidInput, match="background is not supported"):
        sent("responses", {"input": "Hi", "extra_body": {"background": True}})
    assert sent("responses", {"input": "Hi", "background": False})["background"] is False
