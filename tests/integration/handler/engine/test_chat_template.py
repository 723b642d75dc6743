"""CUSTOM_CHAT_TEMPLATE, with transformers' own Jinja environment."""

import json

import pytest

from handler.engine.chat_template import read_chat_template
from handler.errors import InvalidSetting

TEMPLATE = """{% for message in messages %}
<|{{ message.role }}|>{{ message.content }}
{% endfor %}"""
PARTS = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
SYSTEM_FIRST = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('a system message first') }}"
    "{% endif %}{{ messages[1].content }}"
)
RERANK = "{{ (messages | selectattr('role', 'eq', 'query') | first).content }}"


@pytest.mark.parametrize(
    "text",
    [
        TEMPLATE,
        PARTS,
        SYSTEM_FIRST,
        RERANK,
        "{{ messages[0].content + '\\n' }}",
        "{{ messages[0].content | replace('\\\\n', '\\n') }}",
        "{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}é",
        "{{ bos_token + unk_token + messages[0].content | upper }}",
    ],
    ids="text,parts,system message first,reranker,an escape,two escapes,transformers' tags,"
    "special tokens".split(","),
)
def test_a_template_that_renders_is_kept(text):
    assert read_chat_template("CUSTOM_CHAT_TEMPLATE", text) == text


def test_a_file_is_read(tmp_path):
    """With a byte-order mark, as some editors write it."""
    path = tmp_path / "chat.jinja"
    path.write_text(TEMPLATE, encoding="utf-8-sig")
    assert read_chat_template("CUSTOM_CHAT_TEMPLATE", str(path)) == TEMPLATE


def test_a_name_is_left_to_the_engine():
    """vLLM has templates of its own, and SGLang conversations."""
    assert read_chat_template("CUSTOM_CHAT_TEMPLATE", "template_chatml.jinja") is None


def test_the_two_characters_of_a_pasted_line_break_are_one(caplog):
    """Outside of expressions; a form has one line."""
    pasted = TEMPLATE.replace("\n", "\\n")
    assert read_chat_template("CUSTOM_CHAT_TEMPLATE", pasted) == TEMPLATE
    assert [record.message for record in caplog.records] == [
        "CUSTOM_CHAT_TEMPLATE: each \\n is read as a line break"
    ]


CHATML = """{% for m in messages %}{{ '<|' + m["role"] + '|>\\n' + m.content }}\n{% endfor %}"""


@pytest.mark.parametrize(
    "pasted",
    [
        json.dumps(CHATML),
        json.dumps(CHATML)[1:-1],
        f'"chat_template": {json.dumps(CHATML)},',
        json.dumps({"bos_token": "<s>", "chat_template": CHATML}),
        f"'{CHATML}'",
        f'"{CHATML}"',
    ],
    ids="a string,its inside,a line,the file,quotes,quotes around quotes".split(","),
)
def test_a_template_out_of_tokenizer_config_json_is_the_same(pasted):
    assert read_chat_template("CUSTOM_CHAT_TEMPLATE", pasted).strip() == CHATML.strip()


def test_the_escapes_of_json_are_taken_off_a_template_on_one_line():
    r"""Else each prompt has a backslash and an n in place of a line break."""
    template = CHATML.replace("\n", "").replace('"', "'")
    pasted = json.dumps(template)[1:-1]
    assert read_chat_template("CUSTOM_CHAT_TEMPLATE", pasted) == template


def test_a_text_that_is_too_long_for_a_path_is_no_file():
    assert read_chat_template("CUSTOM_CHAT_TEMPLATE", "You are helpful. " * 40) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{% for m in messages %}\n{{ m.content }}\n{% endfo %}",
            "CUSTOM_CHAT_TEMPLATE is not a Jinja template: line 3: Encountered unknown tag "
            "'endfo'. Jinja was looking for the following tags: 'endfor' or 'else'. The innermost "
            "block that needs to be closed is 'for'.",
        ),
        (
            "{{ messages",
            "CUSTOM_CHAT_TEMPLATE is not a Jinja template: line 1: unexpected end of template, "
            "expected 'end of print statement'.",
        ),
        (
            "{{ messages[0].content }}\n{{ nothing.of_this }}",
            "CUSTOM_CHAT_TEMPLATE cannot render a chat at line 2: 'nothing' is undefined",
        ),
        (
            "{{ messages[0].content | shout }}",
            "CUSTOM_CHAT_TEMPLATE is not a Jinja template: line 1: No filter named 'shout'.",
        ),
        (
            '[{"name": "default"}]',
            "CUSTOM_CHAT_TEMPLATE must be a Jinja template, got JSON without one.",
        ),
        (
            "<s>{{ prompt }}",
            "CUSTOM_CHAT_TEMPLATE leaves the user's message out of the prompt.",
        ),
    ],
    ids=["tag", "end", "undefined", "filter", "JSON", "question"],
)
def test_a_template_that_cannot_serve_chats_is_refused(text, message):
    """With the line and the reason, as far as there are any."""
    with pytest.raises(InvalidSetting) as raised:
        read_chat_template("CUSTOM_CHAT_TEMPLATE", text)
    assert str(raised.value) == message
