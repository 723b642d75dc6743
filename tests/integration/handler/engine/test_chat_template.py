"""CUSTOM_CHAT_TEMPLATE, with transformers' own Jinja environment."""

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
        "{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}é",
    ],
    ids="text,parts,system message first,reranker,an escape,transformers' tags".split(","),
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
        "CUSTOM_CHAT_TEMPLATE: its \\n are read as line breaks"
    ]


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
            "<s>{{ prompt }}",
            "CUSTOM_CHAT_TEMPLATE leaves the user's message out of the prompt.",
        ),
    ],
    ids=["tag", "end", "undefined", "filter", "question"],
)
def test_a_template_that_cannot_serve_chats_is_refused(text, message):
    """With the line and the reason, as far as there are any."""
    with pytest.raises(InvalidSetting) as raised:
        read_chat_template("CUSTOM_CHAT_TEMPLATE", text)
    assert str(raised.value) == message
