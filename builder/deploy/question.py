"""The test request of a new endpoint, and the lines with which a client asks the same."""

from typing import Any

import httpx

from builder.deploy.api import Thing, openai_of
from builder.deploy.caller import Caller, unreachable
from builder.deploy.failures import reason_of
from builder.errors import SmokeTestFailed

QUESTION = "What is the capital of France?"
MAX_TOKENS = 200  # a model that reasons first needs some
ANSWER_SECONDS = 300.0


def ask(caller: Caller, endpoint: Thing, model: str) -> str:
    """Send a small chat to the endpoint's own address; return the answer's text.

    Raises:
        SmokeTestFailed: the refusal in one sentence.
    """
    url = f"{openai_of(endpoint)}/chat/completions"
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    try:
        answer = caller.client.post(url, json=body, timeout=ANSWER_SECONDS)
    except httpx.RequestError as error:
        raise SmokeTestFailed(
            f"The test request had no answer: {unreachable(url, error)}"
        ) from error
    if answer.status_code != 200:
        raise SmokeTestFailed(
            f"The test request was answered with {answer.status_code}: {reason_of(answer)}."
        )
    text = _text(answer)
    if text is None:
        raise SmokeTestFailed(f"The answer to the test request is no chat completion: check {url}.")
    return text


def snippet(endpoint: Thing, model: str) -> str:
    """Return lines of Python that ask the endpoint."""
    return f"""import os
from openai import OpenAI

client = OpenAI(base_url="{openai_of(endpoint)}", api_key=os.environ["RUNPOD_API_KEY"])
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "{QUESTION}"}}],
)
print(answer.choices[0].message.content)"""


def _text(answer: httpx.Response) -> str | None:
    try:
        message: Any = answer.json()["choices"][0]["message"]
        # A model that reasons may not have come to its answer yet.
        text = message.get("content") or message.get("reasoning") or message["reasoning_content"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return str(text).strip()
