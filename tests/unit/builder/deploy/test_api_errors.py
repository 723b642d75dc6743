"""Which answers of Runpod's API mean an account without credit."""

import httpx
import pytest

from builder.deploy.api_errors import error_of
from builder.errors import ApiKeyRefused, NoCredit, NotFound, RequestRefused


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (402, "payment required", NoCredit),
        (400, "Your balance is too low.", NoCredit),
        (400, "account balance has been exhausted", NoCredit),
        (403, "Insufficient funds", NoCredit),
        (400, "not enough credits to start a worker", NoCredit),
        (400, "scaling: balance must be QUEUE_DELAY or REQUEST_COUNT", RequestRefused),
        (422, "load balance endpoints need PORT", RequestRefused),
        (400, "load balance is too low", RequestRefused),
        (403, "the key may not read the balance", ApiKeyRefused),
        (409, "a credit is being applied: try again", RequestRefused),
        (404, "no balance of that id", NotFound),
    ],
)
def test_only_a_text_that_says_so_means_no_credit(status, text, kind):
    """Not each one that has the word."""
    assert type(error_of(httpx.Response(status, json={"error": text}), "endpoint chat")) is kind
