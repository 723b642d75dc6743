"""What the hub's client raises is put into words without what may be secret in it."""

import pytest

from handler.model.hub_errors import reason_of


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("404 for url 'http://cdn/model?signature=x' More", "404 for url 'http://cdn/model…' More"),
        ("Illegal header value b'Bearer hf_one\nhf_two'", "Illegal header value b'Bearer …"),
        ("two\n lines", "two lines"),
        ("", "OSError"),
        ("x" * 300, "x" * 200),
    ],
)
def test_a_reason_is_one_line_without_secrets(message, reason):
    """Signed addresses and headers stand in a library's messages."""
    assert reason_of(OSError(message)) == reason
