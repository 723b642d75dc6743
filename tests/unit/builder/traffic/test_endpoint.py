"""The simulated day, compared with days computed by hand."""

from math import isnan

import pytest

from builder.traffic.day import Lengths, constant_traffic
from builder.traffic.endpoint import Scaling, requests_of_day, simulate
from builder.traffic.worker import Request, WorkerSpeed, interpolated_steps

ONE_AT_A_TIME = WorkerSpeed((1.0,))  # a token a second


def requests(times, *, answer, prompt=0.0):
    return [Request(float(time), prompt, answer) for time in times]


def test_a_day_of_flex_workers_by_hand():
    """A request every ten minutes: each starts a worker, which is restored but for the first."""
    scaling = Scaling(
        idle_timeout_seconds=5.0, cold_start_seconds=60.0, flashboot_seconds=4.0, max_workers=3
    )
    speed = WorkerSpeed((0.02,) * 4, prefill_tokens_per_second=1000.0)
    times = range(0, 86_400, 600)
    day = simulate(requests(times, prompt=500, answer=100), speed, scaling)
    # Prefill 0.5 s, decode 2 s, then five idle seconds and up to one more until the scaler looks.
    assert list(day.waits) == [60.5] + [4.5] * 143
    assert (day.cold_starts, day.restores, day.max_workers) == (1, 143, 1)
    assert day.busy_seconds == pytest.approx(144 * 2.5)
    assert day.flex_seconds == (60 + 8) + 143 * (4 + 8)
    assert day.paid_seconds == day.flex_seconds


def test_a_day_of_flex_workers_without_flashboot_by_hand():
    scaling = Scaling(idle_timeout_seconds=30.0, cold_start_seconds=60.0)
    day = simulate(requests([0, 3600], answer=10), ONE_AT_A_TIME, scaling)
    assert list(day.waits) == [60.0, 60.0]
    assert (day.cold_starts, day.restores) == (2, 0)
    assert day.flex_seconds == 2 * (60 + 10 + 30)
    assert day.changes == ((0.0, 0), (0.0, 1), (100.0, 0), (3600.0, 1), (3700.0, 0))


def test_a_worker_that_always_runs_is_paid_all_day_and_flex_workers_come_when_requests_wait():
    """Two requests of 100 s: the second waits for the queue delay and the start of a worker."""
    scaling = Scaling(
        min_workers=1, max_workers=2, value=4.0, cold_start_seconds=20.0, idle_timeout_seconds=5.0
    )
    day = simulate(requests([10, 10], answer=100), ONE_AT_A_TIME, scaling)
    assert list(day.waits) == [0.0, 24.0]
    assert day.always_on_seconds == 86_400
    assert day.flex_seconds == 20 + 100 + 5
    assert day.busy_seconds == 200


def test_queue_delay_adds_a_worker_for_each_delay_that_the_first_request_waits():
    scaling = Scaling(max_workers=3, value=4.0, cold_start_seconds=20.0)
    day = simulate(requests([0] * 4, answer=100), ONE_AT_A_TIME, scaling)
    assert [change for change in day.changes if change[0] < 60] == [
        (0.0, 0),
        (0.0, 1),
        (4.0, 2),
        (8.0, 3),
    ]
    assert list(day.waits) == [20.0, 24.0, 28.0, 120.0]


def test_request_count_starts_all_that_are_missing_and_stops_them_when_they_are_idle():
    scaling = Scaling(max_workers=10, scaler="REQUEST_COUNT", value=2, cold_start_seconds=20.0)
    speed = WorkerSpeed((1.0, 1.0))
    day = simulate(requests([0] * 5, answer=10), speed, scaling)
    assert day.changes[:4] == ((0.0, 0), (0.0, 1), (1.0, 2), (1.0, 3))
    assert day.flex_seconds == 30 + 30 + 30


def test_request_count_adds_workers_before_any_request_waits():
    """A hundred requests run on a worker that could take 256: 25 workers for four each."""
    scaling = Scaling(
        min_workers=1, max_workers=30, scaler="REQUEST_COUNT", value=4, cold_start_seconds=20.0
    )
    speed = WorkerSpeed((1.0,) * 256)
    day = simulate(requests([10] * 100, answer=100), speed, scaling)
    assert day.max_workers == 25
    assert set(day.waits) == {0.0}


def test_requests_in_a_batch_share_the_steps_and_pause_for_a_prefill():
    """Two tokens a second for one request, one for each of two; a prefill takes a second."""
    speed = WorkerSpeed((0.5, 1.0), prefill_tokens_per_second=100.0)
    sent = requests([0, 3, 4], prompt=100, answer=10)
    simulate(sent, speed, Scaling(min_workers=1, max_workers=1))
    # The first decodes from 1 to 3 (4 tokens), pauses to 4, and has its other 6 by 10.
    assert [(each.arrived, each.first_token, each.finished) for each in sent] == [
        (0, 1.0, 10.0),
        (3, 4.0, 15.0),
        (4, 11.0, 18.0),
    ]


def test_the_worst_hour_and_the_ends_are_percentiles_too():
    """Nineteen requests of a second, hours apart; the last five come at once."""
    times = [*(3600 * hour for hour in range(15)), *[15 * 3600] * 5]
    pods = Scaling(min_workers=1, max_workers=1)
    day = simulate(requests(times, answer=1), ONE_AT_A_TIME, pods)
    assert day.wait_percentiles == (0.0, 3.0, 4.0)
    assert day.worst_hour_p95 == 4.0
    assert day.duration_p95 == 4.0


def test_one_request_starts_one_worker_however_long_that_takes():
    scaling = Scaling(max_workers=3, value=4.0, cold_start_seconds=60.0)
    day = simulate(requests([10], answer=10), ONE_AT_A_TIME, scaling)
    assert (day.cold_starts, day.max_workers, list(day.waits)) == (1, 1, [60.0])


def test_a_request_without_an_answer_has_waited_until_the_day_ends():
    pods = Scaling(min_workers=1, max_workers=1)
    day = simulate(requests([86_000, 86_001], answer=1000), ONE_AT_A_TIME, pods)
    assert list(day.waits) == [0.0, 399.0]
    assert day.busy_seconds == 400.0


def test_a_day_without_requests_costs_nothing_on_flex_workers():
    day = simulate([], ONE_AT_A_TIME, Scaling())
    assert (day.paid_seconds, day.idle_share) == (0, 0.0)
    assert all(map(isnan, (*day.wait_percentiles, day.worst_hour_p95, day.duration_p95)))


def test_the_same_seed_is_the_same_day():
    def day(seed):
        sent = requests_of_day(constant_traffic(0.02), Lengths(100), Lengths(10), seed)
        return simulate(sent, ONE_AT_A_TIME, Scaling())

    assert day(1) == day(1)
    assert day(1) != day(2)


def test_steps_are_linear_between_the_measured_speeds():
    steps = interpolated_steps({1: 50.0, 3: 75.0}, 5)
    assert steps == pytest.approx((0.02, 0.03, 0.04, 0.04, 0.04))
