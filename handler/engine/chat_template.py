"""CUSTOM_CHAT_TEMPLATE: read, compiled and rendered once before anything loads.

An engine compiles a template with the first chat: an error in it would fail each one.
"""

import logging
from pathlib import Path
from typing import Any

import jinja2

from handler.errors import InvalidSetting, one_line

log = logging.getLogger(__name__)

TEXT_MARKS = ("{", "\n")  # a file's name has neither
QUESTION = "Which city is it?"
# A template may want a system message first, or the content in parts; a reranker has other roles.
CONVERSATIONS: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": QUESTION}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
    [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
    [{"role": "query", "content": QUESTION}, {"role": "document", "content": "Paris is."}],
)


def read_chat_template(variable: str, value: str) -> str | None:
    """Return the text of a template that is given as a path or as the text itself.

    Args:
        variable: that has it, for errors.

    Returns:
        None if it is neither: the engine knows some by name.

    Raises:
        InvalidSetting: the line and the reason of an error, or that it leaves the question out.
    """
    where = variable
    if not any(mark in value for mark in TEXT_MARKS):
        path = Path(value)
        if not path.is_file():
            return None
        where = f"{variable}={value!r}"
        try:
            value = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSetting(f"{where} cannot be read: {error}.") from error
    text = _with_line_breaks(where, value)
    _check(where, text)
    return text


def _with_line_breaks(where: str, text: str) -> str:
    r"""Return a template on one line, whose \n are two characters, with line breaks."""
    if "\n" in text or "\\n" not in text:
        return text
    try:
        tokens = list(jinja2.Environment().lex(text))
    except jinja2.TemplateSyntaxError:
        return text  # `_check` says why
    # Inside an expression \n is right: there it is part of a string.
    if not any(kind == "data" and "\\n" in value for _, kind, value in tokens):
        return text
    log.warning("%s: its \\n are read as line breaks", where)
    return text.replace("\\n", "\n")


def _check(where: str, text: str) -> None:
    failures = []
    for conversation in CONVERSATIONS:
        try:
            rendered = _render(text, conversation)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidSetting(
                f"{where} is not a Jinja template: line {error.lineno}: {one_line(str(error))}"
            ) from error
        except Exception as error:  # whatever the template's own expressions raise
            failures.append(error)
            continue
        if QUESTION in rendered:
            return
    if len(failures) < len(CONVERSATIONS):
        raise InvalidSetting(f"{where} leaves the user's message out of the prompt.")
    reason = one_line(str(failures[0])) or repr(failures[0])
    raise InvalidSetting(f"{where} cannot render a chat{_line_of(failures[0])}: {reason}")


def _render(text: str, conversation: list[dict[str, Any]]) -> str:
    """Render as both engines do."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template(
        conversations=[conversation],
        chat_template=text,
        add_generation_prompt=True,
        bos_token="",
        eos_token="",
    )
    [prompt], _ = rendered  # with the positions of generated tokens
    return str(prompt)


def _line_of(error: Exception) -> str:
    """Return the template's line at which an error was raised, as words."""
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = f" at line {trace.tb_lineno}"
        trace = trace.tb_next
    return line
