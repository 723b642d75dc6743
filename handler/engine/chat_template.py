"""Check of CUSTOM_CHAT_TEMPLATE before the model loads: read, compile, render once.

An engine compiles a template at the first chat request: an error would fail every request.
"""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import jinja2

from handler.errors import InvalidSetting, is_lasting, one_line
from handler.settings.variables import QUOTES

log = logging.getLogger(__name__)

TEXT_MARKS = ("{", "\n")  # no file name has one of these
JSON_KEY = re.compile(r'\{?\s*"chat_template"\s*:')  # in tokenizer_config.json
QUESTION = "Which city is it?"
SPECIAL_TOKENS: dict[str, Any] = {
    f"{name}_token": "" for name in "bos eos unk sep pad cls mask".split()
}
# Some templates require a system message, or content parts; a reranker has other roles.
CONVERSATIONS: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": QUESTION}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
    [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
    [{"role": "query", "content": QUESTION}, {"role": "document", "content": "Paris is."}],
)


def read_chat_template(variable: str, value: str) -> str | None:
    """Return the text of a template that is given as a path or as the text itself.

    Args:
        variable: the variable that is set to it, for errors.

    Returns:
        None if it is neither; it may be the name of one of the engine's own templates.

    Raises:
        InvalidSetting: the template has an error, or leaves out the user's message.
    """
    where = variable
    if not any(mark in value for mark in TEXT_MARKS):
        if not os.path.isfile(value):  # False for text that is too long for a path
            return None
        where = f"{variable}={value!r}"
        try:
            value = Path(value).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSetting(
                f"{where} cannot be read: {error}.", lasting=is_lasting(error)
            ) from error
    text = _unescaped(where, _out_of_json(where, value))
    _check(where, text)
    return text


def _out_of_json(where: str, text: str) -> str:
    """Return a template without its quotes, or from a copied part of tokenizer_config.json."""
    stripped = text.strip()
    if found := JSON_KEY.match(stripped):
        stripped = stripped if stripped.startswith("{") else stripped[found.end() :].strip(" \n,")
    try:
        content = json.loads(stripped)
    except (ValueError, RecursionError):
        is_quoted = QUOTES.get(stripped[:1]) == stripped[-1:]
        inner = stripped[1:-1].strip()
        return inner if is_quoted and inner[:1] == "{" and inner[-1:] == "}" else text
    template = content.get("chat_template") if isinstance(content, dict) else content
    if not isinstance(template, str):
        raise InvalidSetting(f"{where} must be a Jinja template, got JSON without one.")
    return template


def _unescaped(where: str, text: str) -> str:
    r"""Replace each literal \n by a line break in a template on one line."""
    if "\n" in text or not _is_escaped(text):
        return text
    log.warning("%s: each \\n is read as a line break", where)
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text.replace("\\n", "\n")


def _is_escaped(text: str) -> bool:
    r"""Whether a template is escaped as in JSON: with \n in its text, or \\n in its strings.

    A single \n inside an expression does not count: there it is part of a string.
    """
    try:
        tokens = list(jinja2.Environment().lex(text))
    except jinja2.TemplateSyntaxError:
        return '\\"' in text
    in_text = any(kind == "data" and "\\n" in value for _, kind, value in tokens)
    return in_text or ("\\\\n" in text and "\\" not in text.replace("\\\\", ""))


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
        if QUESTION.lower() in rendered.lower():
            return
    if len(failures) < len(CONVERSATIONS):
        raise InvalidSetting(f"{where} leaves the user's message out of the prompt.")
    reason = one_line(str(failures[0])) or repr(failures[0])
    raise InvalidSetting(f"{where} cannot render a chat{_line_of(failures[0])}: {reason}")


def _render(text: str, conversation: list[dict[str, Any]]) -> str:
    """Render a chat with transformers, as both engines do."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template(
        conversations=[conversation],
        chat_template=text,
        add_generation_prompt=True,
        **SPECIAL_TOKENS,
    )
    [prompt], _ = rendered  # the second item: positions of generated tokens
    return str(prompt)


def _line_of(error: Exception) -> str:
    """Return ` at line N` if a line of the template raised the error, else an empty text."""
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = f" at line {trace.tb_lineno}"
        trace = trace.tb_next
    return line
