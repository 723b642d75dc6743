"""The page to chat at, in a real browser, with a real model behind it.

tests/integration/handler/serve/http/test_lifecycle.py has it turned off.
"""

import json

import pytest

from tests.support.browser import browser, install
from tests.support.conditions import wait_until
from tests.support.environment import START_SECONDS
from tests.support.http_worker import KEY

pytestmark = pytest.mark.sees_the_start

ENTER, ESCAPE, CONTROL = "\ue007", "\ue00c", "\ue009"
LAST = "[...document.querySelectorAll('.message.assistant')].at(-1)"
IDLE = "document.getElementById('stop').hidden"
FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris, France."
STORY = "Write a long story about a cat and a dog."
HTML = "<img src=x onerror=document.title=1>"
DONE = "data: [DONE]\n\n"
# Keeps what is sent. A test may push answers to be used instead of the worker's, and add fields.
SPY = """
const real = window.fetch;
window.asked = [];
window.answers = [];
window.extra = {};
window.fetch = (path, more) => {
  if (path !== "/v1/chat/completions") return real(path, more);
  const body = JSON.parse(more.body);
  window.asked.push(body);
  const made = window.answers.shift();
  if (made) return Promise.resolve(new Response(...made));
  return real(path, { ...more, body: JSON.stringify({ ...body, ...window.extra }) });
};
"""


@pytest.fixture(scope="session")
def chromium():
    """Chromium and its driver are on this machine."""
    install()


@pytest.fixture(scope="module")
def page(request, chromium, tmp_path_factory):
    """The page, opened while the engine starts, when it has gone on by itself."""
    with browser(tmp_path_factory.mktemp("profile")) as shown:
        # After the browser, whose start may take longer than an engine's.
        worker = request.getfixturevalue("starting_http_endpoint").platform
        shown.open(worker.base_url)
        shown.wait(says("state", "This worker asks for a key."))
        shown.type("#key", KEY + ENTER)
        ready = says("state", "Ask the model something.")  # the engine may be faster
        shown.wait(f"{says('state', 'The engine is starting.')} || {ready}")
        worker.wait_for_ping(200, START_SECONDS)
        shown.wait(ready)
        shown.run(SPY)
        yield shown


@pytest.fixture(scope="module")
def endpoint(request, page):
    """The worker with the page, started after the browser."""
    return request.getfixturevalue("starting_http_endpoint")


@pytest.fixture(autouse=True)
def empty(page):
    """Each test has a chat of its own, at temperature 0."""
    page.click("#clear")
    page.wait(IDLE)
    fill(page, temperature="0", max_tokens="512", system="", stops="", tools="", schema="")
    fill(page, question="", top_p="", seed="")
    page.run("window.asked.length = 0; window.extra = {}")


def answer_at_length(page, tokens):
    """Let the worker's answers have so many tokens, so that a test meets one being written."""
    page.run("window.extra = arguments[0]", {"ignore_eos": True, "max_tokens": tokens})


def says(id, text):
    return f"document.getElementById({id!r}).textContent === {text!r}"


def fill(page, **fields):
    page.run("for (const id in arguments[0]) get(id).value = arguments[0][id]", fields)


def text(page, of):
    """The text of an element, by its id or as an expression."""
    return page.run(f"return document.getElementById({of!r}).textContent")


def ask(page, question):
    """Type it, wait for the whole answer and return its text."""
    page.type("#question", question + ENTER)
    page.wait(f"{LAST} && {IDLE}")
    return page.run(f"return {LAST}.querySelector('.text').textContent")


def asked(page):
    return page.run("return window.asked")


def messages(page):
    """What stands in the conversation."""
    return page.run("return [...document.querySelectorAll('.text')].map((e) => e.textContent)")


def test_the_key_is_asked_for_until_it_is_right(page):
    """It is kept for the tab, so a reload does not ask again."""
    page.run("sessionStorage.clear(); location.reload()")
    page.wait(says("state", "This worker asks for a key."))
    page.type("#key", "wrong" + ENTER)
    page.wait(says("hint", "The API key is invalid."))
    page.run("get('key').value = ''")
    page.type("#key", KEY + ENTER)
    page.wait(says("state", "Ask the model something."))
    page.run("document.title = 'before'; location.reload()")
    page.wait(f"document.title === 'Playground' && {says('state', 'Ask the model something.')}")
    assert page.run("return [get('key').offsetParent, get('model').value]") == [
        None,
        "smollm2-135m-instruct-awq",
    ]
    page.run(SPY)


def test_an_answer_is_streamed_with_its_figures(page):
    """The speed is an estimate until the engine has said how many tokens there were."""
    page.run("""
        window.seen = [];
        const see = () => window.seen.push([get("chat").textContent, get("speed").textContent]);
        new MutationObserver(see).observe(get("speed"), { childList: true });
    """)
    answer_at_length(page, 200)
    answer = ask(page, FRANCE)
    seen = page.run("return window.seen")
    texts = [text.removeprefix(FRANCE) for text, _ in seen]
    assert len(set(texts)) > 1
    assert answer.startswith(PARIS)
    assert all(answer.startswith(text) for text in texts)
    kinds = [speed.split(" ")[1] for _, speed in seen if speed != "–"]
    assert kinds == ["estimated"] * (len(kinds) - 1) + ["counted"]
    assert text(page, "tokens") == "37 in (0 cached), 200 out"
    assert float(text(page, "first").removesuffix(" s")) > 0
    assert float(text(page, "speed").removesuffix(" counted")) > 0


def test_the_kv_cache_fills_while_an_answer_is_written(page):
    """The gauge of /metrics is shown as it is."""
    answer_at_length(page, 4000)
    page.type("#question", STORY + ENTER)
    page.wait("document.getElementById('cache').value > 0")
    share, shown = page.run("return [get('cache').value, get('cacheText').textContent]")
    assert shown == f"{100 * share:.1f} %"
    page.type("body", ESCAPE)


def test_the_settings_are_sent(page):
    """Those that are empty are not, and the conversation is sent whole."""
    ask(page, FRANCE)
    weather = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    fill(page, system="Be brief.", temperature="0.5", top_p="0.9", max_tokens="4", seed="7")
    fill(page, stops="END\n\\n\\n", tools=json.dumps([weather]), schema='{"type": "string"}')
    answer_with(page, DONE)
    ask(page, "And of Italy?")
    first, second = asked(page)
    shared = {
        "model": "smollm2-135m-instruct-awq",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    question = {"role": "user", "content": FRANCE}
    assert first == shared | {"messages": [question], "temperature": 0, "max_tokens": 512}
    assert second == shared | {
        "messages": [
            {"role": "system", "content": "Be brief."},
            question,
            {"role": "assistant", "content": PARIS},
            {"role": "user", "content": "And of Italy?"},
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 4,
        "seed": 7,
        "stop": ["END", "\n\n"],
        "tools": [weather],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "string"}},
        },
    }


def test_a_schema_is_followed(page):
    """Whatever the model would rather say."""
    fill(page, schema='{"type": "string", "enum": ["as the schema says"]}')
    assert ask(page, "Hello") == '"as the schema says"'


@pytest.mark.parametrize(
    ("field", "content", "error"),
    [
        ("schema", "{", "This is not JSON: "),
        ("schema", "[]", "This should be an object."),
        ("tools", "{}", "This should be a list."),
    ],
)
def test_what_is_not_json_is_not_sent(page, field, content, error):
    """Its error stands beside it, in sight, and the question stays."""
    fill(page, **{field: content})
    page.type("#question", "Hello" + ENTER)
    assert text(page, f"{field}Error").startswith(error)
    assert page.run("return document.activeElement.id") == field
    assert page.run(f"return get('{field}Error').getBoundingClientRect().bottom <= innerHeight")
    assert page.run("return get('question').value") == "Hello"
    assert (asked(page), messages(page)) == ([], [])


def test_a_number_out_of_range_is_not_sent(page):
    """The browser says what is wrong with it."""
    fill(page, temperature="3")
    page.type("#question", "Hello" + ENTER)
    assert page.run("return document.activeElement.id") == "temperature"
    assert asked(page) == []


def test_an_error_of_the_engine_is_shown(page):
    """In its own words; nothing was said, and the question may be sent again."""
    fill(page, max_tokens="1000000")
    page.type("#question", "Hello" + ENTER)
    page.wait("get('notice').className === 'bad' && get('stop').hidden")
    assert text(page, "notice").startswith("max_tokens=1000000 cannot be greater than ")
    assert page.run("return get('question').value") == "Hello"
    assert messages(page) == []
    page.wait(says("state", "Ask the model something."))


@pytest.mark.parametrize("how", ["escape", "button"])
def test_an_answer_is_stopped(page, endpoint, how):
    """What is there stays, and the engine's request is over."""
    log = endpoint.log
    before = cancelled(log)
    answer_at_length(page, 4000)
    page.type("#question", STORY + ENTER)
    page.wait(f"{LAST} && {LAST}.textContent.length > 20")
    if how == "escape":
        page.type("body", ESCAPE)
    else:
        page.click("#stop")
    page.wait(IDLE)
    assert page.run(f"return {LAST}.querySelector('.foot').textContent") == "CopyStopped."
    assert len(messages(page)[1]) > 20
    wait_until(lambda: cancelled(log) == before + 1)


def cancelled(log):
    """How many of the log's lines are of requests that somebody gave up."""
    return log.read_text().count(" /v1/chat/completions 499 cancelled, ")


def test_clear_forgets_an_answer_that_is_being_written(page):
    """The next question is the first one."""
    page.type("#question", STORY + ENTER)
    page.wait(f"{LAST} && {LAST}.textContent.length > 20")
    page.click("#clear")
    page.wait(IDLE)
    assert (messages(page), page.run("return get('question').value")) == ([], "")
    assert ask(page, FRANCE) == PARIS
    assert asked(page)[-1]["messages"] == [{"role": "user", "content": FRANCE}]


def test_what_looks_like_html_is_text(page):
    """In a question and in an answer."""
    fill(page, schema=json.dumps({"enum": [HTML]}))
    assert ask(page, HTML) == json.dumps(HTML)
    assert page.run("return [document.title, document.images.length]") == ["Playground", 0]
    assert messages(page) == [HTML, json.dumps(HTML)]


def test_an_answer_is_copied(page):
    """As it is, to be pasted anywhere."""
    ask(page, FRANCE)
    page.click(".foot button")
    page.wait("document.querySelector('.foot button').textContent === 'Copied'")
    page.type("#question", CONTROL + "v")
    assert page.run("return get('question').value") == PARIS


def test_shift_and_enter_make_a_new_line(page):
    """Nothing is sent."""
    page.type("#question", "one\ue008" + ENTER + "\ue008two")
    assert page.run("return get('question').value") == "one\ntwo"
    assert asked(page) == []


def answer_with(page, *answer):
    """Answer the next question with the arguments of a `Response`."""
    page.run("window.answers.push(arguments[0])", answer)


def stream(*deltas):
    """An answer with these: the demo model neither reasons nor calls tools."""
    return "".join(f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n" for delta in deltas)


def call(index, arguments, **more):
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments, **more}}]}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_folded_away(page, name):
    """It is no part of what is said next."""
    answer_with(page, stream({name: "Hm, "}, {name: "Paris."}, {"content": "Paris."}) + DONE)
    assert ask(page, FRANCE) == "Paris."
    details = f"{LAST}.querySelector('details')"
    assert page.run(f"return [{details}.open, {details}.querySelector('pre').textContent]") == [
        False,
        "Hm, Paris.",
    ]
    ask(page, "Sure?")
    assert asked(page)[-1]["messages"][1] == {"role": "assistant", "content": "Paris."}


def test_tool_calls_are_shown_as_json(page):
    """Put together from the pieces that they come in."""
    weather = call(0, '{"city": ', name="weather"), call(0, '"Paris"}')
    answer_with(page, stream(*weather, call(1, "{}", name="time")) + DONE)
    ask(page, FRANCE)
    shown = page.run(f"return {LAST}.querySelector('pre').textContent")
    assert shown == "\n".join(
        json.dumps(call, indent=2)
        for call in (
            {"name": "weather", "arguments": {"city": "Paris"}},
            {"name": "time", "arguments": {}},
        )
    )


def test_what_is_said_after_tool_calls_is_their_result(page):
    """One for each, in their order, and then the model goes on."""
    calls = call(0, "{}", name="weather"), call(1, "{}", name="time")
    calls[0]["tool_calls"][0]["id"], calls[1]["tool_calls"][0]["id"] = "a", "b"
    answer_with(page, stream(*calls) + DONE)
    ask(page, FRANCE)
    placeholder = "document.getElementById('question').placeholder"
    assert page.run(f"return {placeholder}") == "What weather returns"
    page.type("#question", "sunny" + ENTER)
    page.wait(f"{placeholder} === 'What time returns'")
    answer_with(page, stream({"content": "Sunny at noon."}) + DONE)
    page.type("#question", "noon" + ENTER)
    page.wait(f"{placeholder} === 'Message'")
    assert asked(page)[-1]["messages"][-2:] == [
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        {"role": "tool", "tool_call_id": "b", "content": "noon"},
    ]
    assert messages(page) == [FRANCE, "", "sunny", "noon", "Sunny at noon."]


def test_a_question_waits_for_a_worker_that_starts(page):
    """The 503 is made up, as a second start would take as long as all these tests."""
    refusal = json.dumps({"error": {"message": "The engine is starting."}})
    answer_with(page, refusal, {"status": 503})
    page.run("""
        window.notices = [];
        const see = () => window.notices.push(get("notice").textContent);
        new MutationObserver(see).observe(get("notice"), { childList: true });
    """)
    assert ask(page, FRANCE) == PARIS
    notice = "The engine is starting. The message is sent when it is ready."
    assert notice in page.run("return window.notices")
    assert messages(page) == [FRANCE, PARIS]
    assert len(asked(page)) == 2


def test_an_answer_that_breaks_off_says_so(page):
    """What has come of it stays."""
    answer_with(page, stream({"content": "The capi"}))
    assert ask(page, FRANCE) == "The capi"
    assert text(page, "notice") == "The answer broke off."


def test_a_phone_shows_all_of_it(page):
    """Nothing is wider than 380 pixels, and the settings open where they are wanted."""
    page.resize(380, 780)
    fill(page, schema="{")
    page.type("#question", "x" * 1500 + ENTER)
    assert page.run("return get('settings').offsetParent !== null")
    assert text(page, "open") == "Close"
    page.click("#open")
    fill(page, schema="", max_tokens="8")
    page.type("#question", ENTER)
    page.wait(f"{LAST} && {IDLE}")
    assert page.run("return [get('settings').checkVisibility(), get('question').value]") == [
        False,
        "",
    ]
    assert page.run("return document.documentElement.scrollWidth") == 380
    assert page.run("return get('scroll').scrollWidth === get('scroll').clientWidth")
    assert page.run("return get('scroll').scrollTop > 0")
    foot = f"{LAST}.querySelector('.foot').getBoundingClientRect().bottom"
    assert page.run(f"return {foot} <= get('form').getBoundingClientRect().top")
    page.resize(1280, 900)


def test_nothing_is_asked_of_anybody_else(page, endpoint):
    """Every request of the page went to its worker."""
    origins = page.run(
        "return performance.getEntriesByType('resource').map((e) => new URL(e.name).origin)"
    )
    assert set(origins) == {endpoint.platform.base_url}


def test_the_console_has_nothing_to_say(page):
    """But of the answers that were errors: 401, 503 and 400 are the worker's."""
    lines = [line for line in page.console() if "the server responded with a status of" not in line]
    assert lines == []
