"""The page to chat at, in a real browser, with a real model behind it."""

import pytest

from tests.browser import browser
from tests.conftest import START_SECONDS, worker_command, worker_environment
from tests.http_worker import KEY, running_http_worker

ENTER = "\ue007"
ESCAPE = "\ue00c"
LAST = "[...document.querySelectorAll('.message.assistant')].at(-1)"
IDLE = "document.getElementById('stop').hidden"


@pytest.fixture(scope="module")
def served():
    """A worker with its page."""
    environ = worker_environment("awq", VLLM_LOGGING_LEVEL="ERROR")
    with running_http_worker(worker_command("vllm"), environ, ready_within_seconds=None) as worker:
        worker.wait_for_ping(204, 20)
        yield worker


@pytest.fixture(scope="module")
def page(served, tmp_path_factory):
    """The page, opened while the engine starts, and then with the key."""
    with browser(tmp_path_factory.mktemp("profile")) as shown:
        shown.open(served.base_url)
        shown.wait("document.getElementById('key').offsetParent")  # it asks, whoever has none
        shown.type("#key", "wrong" + ENTER)
        shown.wait("document.getElementById('notice').textContent === 'The key is wrong.'")
        shown.run("document.getElementById('key').value = ''")
        shown.type("#key", KEY + ENTER)
        served.wait_for_ping(200, START_SECONDS)
        shown.wait("document.getElementById('model').value")
        shown.run("document.getElementById('temperature').value = 0")
        yield shown
        origins = shown.run(
            "return performance.getEntriesByType('resource').map((e) => new URL(e.name).origin)"
        )
        assert set(origins) == {served.base_url}


@pytest.fixture(autouse=True)
def empty(page):
    """Each test has a chat of its own."""
    page.wait(IDLE)
    page.click("#clear")
    page.run(
        "for (const id of ['tools', 'schema', 'question']) document.getElementById(id).value = ''"
    )


def text(page, of):
    return page.run(f"return {of}.textContent")


def test_an_answer_is_streamed_with_its_figures(page):
    """Enter sends; the tokens are the engine's count."""
    page.type("#question", "What is the capital of France?" + ENTER)
    page.wait(f"{LAST} && {IDLE}")
    assert text(page, f"{LAST}.querySelector('.text')") == "The capital of France is Paris, France."
    figures = {id: text(page, f"document.getElementById('{id}')") for id in ("first", "tokens")}
    assert figures["tokens"] == "37 in (0 cached), 10 out"
    assert figures["first"].endswith(" s")
    assert float(text(page, "document.getElementById('speed')")) > 0
    page.wait("document.getElementById('cacheText').textContent.endsWith(' %')")


def test_a_schema_is_followed(page):
    """Whatever the model would rather say."""
    page.type("#schema", '{"type": "string", "enum": ["as the schema says"]}')
    page.type("#question", "Hello" + ENTER)
    page.wait(f"{LAST} && {IDLE}")
    assert text(page, f"{LAST}.querySelector('.text')") == '"as the schema says"'


@pytest.mark.parametrize(
    ("field", "content", "said"),
    [
        ("schema", "{", "This is no JSON: "),
        ("schema", "[]", "This should be an object."),
        ("tools", "{}", "This should be a list."),
    ],
)
def test_what_is_no_json_is_not_sent(page, field, content, said):
    """Its error stands beside it, and the question stays."""
    page.type(f"#{field}", content)
    page.type("#question", "Hello" + ENTER)
    assert text(page, f"document.getElementById('{field}Error')").startswith(said)
    assert page.run("return document.getElementById('question').value") == "Hello"
    assert page.run("return document.querySelectorAll('.message').length") == 0


def test_an_error_of_the_engine_is_shown(page):
    """In its own words, and the question may be mended."""
    page.run("document.getElementById('max_tokens').value = 1000000")
    page.type("#question", "Hello" + ENTER)
    page.wait("document.getElementById('notice').className === 'bad'")
    assert "max_tokens" in text(page, "document.getElementById('notice')")
    assert page.run("return document.getElementById('question').value") == "Hello"
    page.run("document.getElementById('max_tokens').value = 512")


def test_escape_stops_the_answer(page, served):
    """What is there stays, and the engine's request is over."""
    page.type("#question", "Count from 1 to 1000." + ENTER)
    page.wait(f"{LAST} && {LAST}.textContent.length > 20")
    page.type("body", ESCAPE)
    page.wait(f"document.getElementById('notice').textContent === 'Stopped.' && {IDLE}")
    metrics = served.call("GET", "/metrics").text
    assert (
        'llm_worker_requests_total{outcome="cancelled",route="/v1/chat/completions"} 1.0' in metrics
    )


def test_what_looks_like_html_is_text(page):
    """Nothing of a chat is run."""
    page.run("document.getElementById('max_tokens').value = 16")
    page.type("#question", "<img src=x onerror=document.title=1>" + ENTER)
    page.wait(f"{LAST} && {IDLE}")
    assert page.run("return [document.title, document.images.length]") == ["Playground", 0]
    assert text(page, "document.querySelector('.message.user')").startswith("<img src=x")


def test_the_console_has_nothing_to_say(page):
    """But of the answers that were errors: 401, 503 and 400 are the worker's."""
    said = [line for line in page.console() if "the server responded with a status of" not in line]
    assert said == []
