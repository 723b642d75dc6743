"""No line of SGLang's log has the text of a constraint."""

import logging

import pytest

from handler.engine.sglang.grammars import WithoutConstraint


def logged(*arguments):
    record = logging.LogRecord("a", logging.ERROR, "a.py", 1, arguments[0], arguments[1:], None)
    assert WithoutConstraint().filter(record)
    return record.getMessage()


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        (
            """Hit invalid json_schema: key_string='{"enum":\\n["secret"]}', e=RuntimeError('a')""",
            "Hit invalid json_schema",
        ),
        ("Hit invalid regex: key_string='secret', e=RuntimeError('secret')", "Hit invalid regex"),
        (
            "Failed to compile ebnf grammar: at line 1:\nsecret, self.rid='a'\n^, self.rid='job-1'",
            "Failed to compile ebnf grammar, self.rid='job-1'",
        ),
        (
            "Grammar compilation raised an exception: secret, grammar_key=('json', 'secret')",
            "Grammar compilation raised an exception",
        ),
        (
            "Skip unsupported key_type='regex', key_string='secret'",
            "Skip unsupported key_type='regex'",
        ),
    ],
    ids=["schema", "regex", "request", "exception", "kind"],
)
def test_a_line_about_a_constraint_is_cut_before_its_text(line, rest):
    assert logged(line) == rest
    assert logged("%s", line) == rest


def test_other_lines_stay():
    line = "The input is too long: 5 tokens, self.rid='job-1'"
    assert logged("The input is too long: %d tokens, self.rid='job-1'", 5) == line
