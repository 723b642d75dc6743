"""The warm-up of an engine that refuses a prefix."""

import pytest

from handler.engine.warmup import warm_up
from handler.errors import InvalidSetting
from tests.support.stand_in_engine import running_stand_in


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (
            {"messages": [], "model": "other"},
            "PREFIX_WARMUP: prefix 1 names 'other', which is not served.",
        ),
        ({"messages": []}, "PREFIX_WARMUP: the engine refuses prefix 1: Not Found"),
    ],
    ids=["unknown model", "no chat route"],
)
def test_a_prefix_that_cannot_be_prefilled_is_an_invalid_setting(prefix, message):
    """Exit code 2, not that of an engine that failed."""
    with running_stand_in() as (_, runtime), pytest.raises(InvalidSetting) as raised:
        warm_up(runtime, (prefix,))
    assert str(raised.value) == message
