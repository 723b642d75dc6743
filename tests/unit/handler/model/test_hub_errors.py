"""Errors of huggingface-hub: which ones are retried, and what reaches the log."""

import pytest

from handler.model.hub_errors import reason_of, retry


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("404 for url 'http://cdn/model?signature=x' More", "404 for url 'http://cdn/model…' More"),
        ("Illegal header value b'Bearer hf_one\nhf_two'", "Illegal header value b'Bearer …"),
        ("two\n lines", "two lines"),
        ("", "OSError"),
        ("x" * 300, "x" * 200),
    ],
    ids=["signature", "token", "lines", "empty", "long"],
)
def test_a_reason_is_one_line_without_secrets(message, reason):
    assert reason_of(OSError(message)) == reason


class Calls:
    """Fails with the given errors, one after the other, then returns "done"."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.count = 0

    def __call__(self):
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_a_broken_connection_is_retried_as_often_as_there_are_waits():
    calls = Calls(ConnectionResetError(), TimeoutError())
    assert retry(calls, waits_seconds=(0, 0)) == "done"
    calls = Calls(*[ConnectionResetError()] * 3)
    with pytest.raises(ConnectionResetError):
        retry(calls, waits_seconds=(0, 0))
    assert calls.count == 3


def test_retries_start_anew_while_there_is_progress():
    calls = Calls(*[ConnectionResetError()] * 5)
    assert retry(calls, progress=lambda: calls.count, waits_seconds=(0,)) == "done"


def test_a_full_disk_is_not_retried():
    calls = Calls(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        retry(calls, waits_seconds=(0, 0))
    assert calls.count == 1
