"""A form of HTTP and the JSON body of a job become the same form for the engine."""

import base64
import json

import httpx
import pytest

from handler.errors import InvalidInput, UnknownModel, UnsupportedBody
from handler.request.form import FormFile, decode_form
from handler.request.parse import RequestParser

ROUTE = "/v1/audio/transcriptions"
SOUND = bytes(range(256)) * 3 + b"\r\n--x\r\n\r\n"
BASE64 = base64.b64encode(SOUND).decode()
FILE = ("a b.wav", SOUND, "audio/wav")


def parser():
    return RequestParser(("served", "adapter"), "org/repository", {})


def of_job(**body):
    """Return the fields of the engine's form for a job."""
    request = parser().parse_job({"id": "j1", "input": {"route": ROUTE, "body": body}}).request
    return decode_form(request.body, request.content_type)


def of_http(data, files, path=ROUTE):
    """Return the fields of the engine's form for a call with a form."""
    made = httpx.Request("POST", "http://worker", data=data, files=files)
    return of_raw_http(made.read(), made.headers["content-type"], path)


def of_raw_http(body, content_type, path=ROUTE):
    request = parser().parse_http(
        method="POST",
        path=path,
        query="",
        body=body,
        content_type=content_type,
        request_id="r1",
    )
    return decode_form(request.body, request.content_type)


@pytest.mark.parametrize("text", [BASE64, f"data:audio/wav;base64,{BASE64}"], ids=["plain", "URI"])
def test_the_file_of_a_job_is_in_base64(text):
    assert of_job(file=text) == {"file": FormFile(SOUND), "model": "served"}


def test_values_of_a_job_become_text_and_lists_repeat():
    """As OpenAI's clients send them; null is absent."""
    assert of_job(
        file=BASE64,
        language=None,
        prompt="é",
        temperature=0.2,
        stream=False,
        seed=7,
        vllm_xargs={"a": 1},
        timestamp_granularities=["word", "segment"],
        **{"include[]": ["logprobs"], "stop": []},
    ) == {
        "file": FormFile(SOUND),
        "model": "served",
        "prompt": "é",
        "temperature": "0.2",
        "stream": "false",
        "seed": "7",
        "vllm_xargs": '{"a": 1}',
        "timestamp_granularities[]": ["word", "segment"],
        "include[]": ["logprobs"],
    }


@pytest.mark.parametrize("name", ["org/repository", "", "served"])
def test_a_form_over_http_may_name_the_model_like_any_other_request(name):
    """The file is as it was, with its name and type."""
    fields = {"model": name, "timestamp_granularities[]": ["word", "segment"], "prompt": "é"}
    assert of_http(fields, {"file": FILE}) == {
        "file": FormFile(SOUND, "a b.wav", "audio/wav"),
        "model": "served",
        "timestamp_granularities[]": ["word", "segment"],
        "prompt": "é",
    }


def test_a_form_over_http_without_a_model():
    assert of_http({}, {"file": FILE})["model"] == "served"


def test_a_form_over_http_that_names_another_model_is_refused():
    with pytest.raises(UnknownModel, match="The model `whisper-1` does not exist"):
        of_http({"model": "whisper-1"}, {"file": FILE})


def test_a_json_body_over_http_is_a_jobs():
    body = json.dumps({"file": BASE64, "language": "en"}).encode()
    assert of_raw_http(body, "application/json") == {
        "file": FormFile(SOUND),
        "language": "en",
        "model": "served",
    }


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        (
            {"audio_url": "https://a.example/x.wav"},
            f"{ROUTE} has no field 'audio_url': put the audio into file.",
            "audio_url",
        ),
        (
            {"file": BASE64, "image": [{"url": "x"}]},
            f"{ROUTE} has no field 'image': put the audio into file.",
            "image",
        ),
        (
            {"language": "en"},
            "file must be base64 audio or the URL of an audio file.",
            "file",
        ),
        ({"file": ["x"]}, "file must be base64 audio or the URL of an audio file.", "file"),
        (
            {"file": "file:///etc/passwd"},
            "'file:///etc/passwd' must be an http or https URL.",
            "url",
        ),
        ({"file": "***"}, "file is not base64: Only base64 data is allowed.", "file"),
    ],
    ids=["media key", "media list", "no file", "list", "no URL of the web", "no base64"],
)
def test_a_body_that_makes_no_form_says_what_would_be_right(fields, message, param):
    with pytest.raises(InvalidInput) as caught:
        of_job(**fields)
    assert (str(caught.value), caught.value.param) == (message, param)


PART = b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is not a form: its closing boundary is missing."),
        (PART, "The body is not a form: its closing boundary is missing."),
        (b"RIFF", "The body is not a form: "),
        (PART + PART + b"--x--\r\n", "The form has the field a more than once."),
        (b"--x\r\na: b\r\n\r\n1\r\n--x--\r\n", "A part of the form has no field name."),
        (PART.replace(b"1", b"\xff") + b"--x--\r\n", "The body is not a form: 'utf-8' codec"),
        (PART.replace(b'"a"', b'"a[]"') * 101 + b"--x--\r\n", "A form may have at most 100 fields"),
    ],
    ids=["empty", "cut short", "no form", "twice", "no name", "no UTF-8", "too many"],
)
def test_a_broken_form_is_refused(body, message):
    with pytest.raises(InvalidInput) as caught:
        of_raw_http(body, "multipart/form-data; boundary=x")
    assert str(caught.value).startswith(message)


def test_a_form_needs_its_boundary():
    with pytest.raises(InvalidInput, match="needs a boundary"):
        of_raw_http(b"", "multipart/form-data")


def test_a_second_file_is_refused():
    with pytest.raises(InvalidInput, match="may have one file only, in the field file"):
        of_http({}, {"file": FILE, "other": FILE})


def test_a_route_that_takes_no_form_says_so():
    """415, and not that the form is no JSON."""
    with pytest.raises(UnsupportedBody) as caught:
        of_http({"prompt": "Hi"}, {"file": FILE}, "/v1/completions")
    assert str(caught.value) == "/v1/completions needs a JSON object, not a form."
    assert caught.value.status == 415
