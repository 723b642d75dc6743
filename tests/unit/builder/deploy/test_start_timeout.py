"""RUNPOD_INIT_TIMEOUT from a size."""

import pytest

from builder.deploy.start_timeout import init_timeout_seconds


@pytest.mark.parametrize(
    ("gigabytes", "seconds"),
    [(0, None), (5.5, None), (6, None), (6.1, 480), (40, 1140), (140, 3120)],
)
def test_the_time_is_in_whole_minutes_and_longer_than_the_platforms_own(gigabytes, seconds):
    assert init_timeout_seconds(int(gigabytes * 1e9)) == seconds
