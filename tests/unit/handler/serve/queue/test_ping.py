"""How many jobs a ping can name."""

import pytest

from handler.serve.queue.ping import bounded_jobs, pinged_jobs

ENVIRON = {
    "RUNPOD_WEBHOOK_PING": "https://api.runpod.ai/v2/abcdefghijklmn/ping/$RUNPOD_POD_ID?gpu=L4",
    "RUNPOD_POD_ID": "0123456789abcd",
}


@pytest.mark.parametrize(
    ("max_jobs", "is_auto", "environ", "jobs", "levels"),
    [
        (64, True, ENVIRON, 64, []),
        (1024, True, ENVIRON, 171, ["INFO"]),
        (512, False, ENVIRON, 512, ["WARNING"]),
        (171, False, ENVIRON, 171, []),
        (1024, True, {}, 1024, []),
    ],
    ids=["few", "auto", "the user's number", "the user's number fits", "no pings"],
)
def test_auto_stays_within_the_ping_and_a_larger_number_warns(
    max_jobs, is_auto, environ, jobs, levels, caplog
):
    with caplog.at_level("INFO"):
        assert bounded_jobs(max_jobs, is_auto=is_auto, environ=environ) == jobs
    assert [record.levelname for record in caplog.records] == levels


def test_a_long_url_leaves_room_for_fewer_jobs():
    longer = ENVIRON | {"RUNPOD_WEBHOOK_PING": ENVIRON["RUNPOD_WEBHOOK_PING"] + "x" * 470}
    assert pinged_jobs(ENVIRON) - pinged_jobs(longer) == 10
