"""The exit code of a worker that a library or a signal ends."""

import pytest

from handler import command_line


@pytest.mark.parametrize(
    ("code", "returned", "printed"),
    [
        ("The licence has expired.", 1, "The licence has expired.\n"),
        (7, 7, ""),
        (None, 0, ""),
    ],
    ids=["text", "number", "none"],
)
def test_an_exit_that_a_library_asks_for_is_kept(monkeypatch, capsys, code, returned, printed):
    """A text is printed, and the code is 1, as the interpreter does."""

    def exit(_):
        raise SystemExit(code)

    monkeypatch.setattr(command_line, "load_settings", exit)
    assert command_line.main([], {}) == returned
    assert capsys.readouterr().err == printed
