"""The simulated day, compared with the theory of queues."""

from math import exp, factorial

import pytest

from builder.traffic.day import DAY_SECONDS, Lengths, constant_traffic
from builder.traffic.endpoint import Scaling, requests_of_day, simulate
from builder.traffic.worker import WorkerSpeed

REQUESTS = 300_000  # a day: fewer are further from the theory
NO_PROMPT = Lengths(0.0, 0.0)
ONE_AT_A_TIME = WorkerSpeed((1.0,))  # a token a second


def erlang_c(servers, load):
    """Return the probability of waiting in an M/M/c queue; `load` is in servers."""
    last = load**servers / factorial(servers) * servers / (servers - load)
    return last / (sum(load**n / factorial(n) for n in range(servers)) + last)


@pytest.mark.parametrize(("servers", "utilization"), [(1, 0.6), (3, 0.6), (8, 0.7)])
def test_workers_that_answer_one_request_at_a_time_are_an_mmc_queue(servers, utilization):
    """Within 3 %: the mean wait, the share that waits, and the share that waits for long."""
    load = servers * utilization
    pods = Scaling(min_workers=servers, max_workers=servers)
    seconds = load * DAY_SECONDS / REQUESTS  # of an answer
    traffic, answer = constant_traffic(load / seconds), Lengths(seconds)
    requests = requests_of_day(traffic, NO_PROMPT, answer, seed=5)
    day = simulate(requests, ONE_AT_A_TIME, pods)
    waiting = erlang_c(servers, load)
    mean = waiting * seconds / (servers - load)
    assert sum(day.waits) / len(day.waits) == pytest.approx(mean, rel=0.03)
    assert sum(each > 0 for each in day.waits) / len(day.waits) == pytest.approx(waiting, rel=0.03)
    longer = sum(each > 2 * mean for each in day.waits) / len(day.waits)
    assert longer == pytest.approx(waiting * exp(-(servers - load) / seconds * 2 * mean), rel=0.03)
    assert day.busy_seconds / day.paid_seconds == pytest.approx(utilization, rel=0.03)


@pytest.mark.parametrize("utilization", [0.5, 0.7])
def test_a_worker_that_shares_one_speed_among_its_requests_is_processor_sharing(utilization):
    """Requests in an M/M/1 queue with processor sharing: p / (1 - p) on average (Little's law)."""
    speed = WorkerSpeed(tuple(float(running) for running in range(1, 500)))
    pods = Scaling(min_workers=1, max_workers=1)
    traffic = constant_traffic(utilization)
    requests = list(requests_of_day(traffic, NO_PROMPT, Lengths(1.0), seed=5))
    simulate(requests, speed, pods)
    times = [each.finished - each.arrived for each in requests if each.finished is not None]
    assert len(times) == pytest.approx(len(requests), rel=0.001)
    assert sum(times) / len(times) == pytest.approx(1 / (1 - utilization), rel=0.03)
