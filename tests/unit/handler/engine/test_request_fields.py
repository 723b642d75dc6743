"""The fields that the routes of an engine's app take."""

from fastapi import FastAPI
from pydantic import BaseModel, Field

from handler.engine.request_fields import request_fields


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
