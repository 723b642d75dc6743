"""The fields that the routes of an engine's app take."""

import json

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field, model_validator

from handler.engine.request_fields import request_fields, request_validators
from handler.errors import InvalidInput


class Chat(BaseModel):
    messages: list[str]
    max_tokens: int = Field(1, alias="limit")


class Other(BaseModel):
    text: str


def test_fields_and_aliases_of_each_posted_model_are_found():
    """Of a union all members'; a route without a model in its body is left out."""
    app = FastAPI()

    @app.post("/chat")
    def chat(body: Chat): ...

    @app.post("/either")
    def either(body: Chat | Other): ...

    @app.post("/raw")
    def raw(): ...

    @app.get("/chat")
    def listed(): ...

    assert request_fields(app) == {
        "/chat": {"messages", "max_tokens", "limit"},
        "/either": {"messages", "max_tokens", "limit", "text"},
    }
    without, also = {"/chat": ("limit", "none")}, {"/chat": ("seen",), "/none": ("text",)}
    assert request_fields(app, without=without, also=also)["/chat"] == {
        "messages",
        "max_tokens",
        "seen",
    }


class Part(BaseModel):
    text: str
    type: str = "text"


class Message(BaseModel):
    content: str | list[Part]


class Conversation(BaseModel):
    messages: list[Message]

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data):
        if data.get("fails"):
            raise RuntimeError
        return data


def test_a_check_by_the_engines_model_stops_at_the_first_invalid_entry():
    """The app itself makes an error of each."""
    app = FastAPI()

    @app.post("/chat")
    def chat(body: Conversation): ...

    check = request_validators(app)["/chat"]
    good = {"content": [{"text": "Hi"}]}
    check(json.dumps({"messages": [good] * 100}).encode())
    check(json.dumps({"messages": 1, "fails": True}).encode())  # the app answers it
    for bad in ({"content": [{"text": 1}] * 50}, {"content": [{}]}):
        with pytest.raises(InvalidInput, match=r"^messages\.2\.content\.0\.text: ") as error:
            check(json.dumps({"messages": [good, good, *[bad] * 100]}).encode())
        assert error.value.param == "messages"
