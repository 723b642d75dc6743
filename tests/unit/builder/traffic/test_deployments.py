"""Which deployments are compared, and the cheapest of them."""

from multiprocessing.pool import ThreadPool

import pytest

from builder.traffic.day import Lengths, constant_traffic
from builder.traffic.demand import Demand
from builder.traffic.deployments import ForecastInput, GpuOption, compare, find_crossing
from builder.traffic.endpoint import Scaling
from builder.traffic.worker import WorkerSpeed

ONE_AT_A_TIME = WorkerSpeed((1.0,))


def option(flex=0.002, pod=0.001, savings=0.0009):
    return GpuOption("one", ONE_AT_A_TIME, flex, flex, pod, savings)


def asked(rate, *, slo=3600.0, answer=10.0, **more):
    demand = Demand(constant_traffic(rate), Lengths(0.0, 0.0), Lengths(answer))
    return ForecastInput(demand, Scaling(cold_start_seconds=20.0), slo, **more)


def compared(gpu, wanted):
    """Return the chosen deployments by kind."""
    with ThreadPool(1) as pool:
        return {each.deployment.kind: each for each in compare(gpu, wanted, pool)}


def test_each_kind_with_a_price_has_its_best():
    found = compared(option(), asked(0.05))
    assert list(found) == ["flex", "active and flex", "Pods", "Pods, savings plan"]
    pods, saving = found["Pods"], found["Pods, savings plan"]
    assert (pods.deployment.scaling.min_workers, pods.dollars) == (1, pytest.approx(86.4))
    assert (saving.dollars, saving.day) == (pytest.approx(77.76), pods.day)
    flex = found["flex"]
    assert flex.dollars == pytest.approx(flex.day.flex_seconds * 0.002)


@pytest.mark.parametrize(
    ("missing", "kinds"),
    [
        ({"flex": None}, ["Pods", "Pods, savings plan"]),
        ({"pod": None, "savings": None}, ["flex", "active and flex"]),
        ({"savings": None}, ["flex", "active and flex", "Pods"]),
    ],
    ids=["flex", "Pods", "savings plan"],
)
def test_a_kind_without_a_price_is_left_out(missing, kinds):
    assert list(compared(option(**missing), asked(0.01))) == kinds


def test_more_workers_are_tried_until_the_slo_is_met():
    """Requests of ten seconds on workers that take one at a time: more of them wait less."""
    patient, hasty = (compared(option(), asked(0.09, slo=slo))["Pods"] for slo in (3600.0, 0.5))
    assert patient.deployment.scaling.min_workers == 1
    assert hasty.deployment.scaling.min_workers > 2
    assert hasty.p95 <= 0.5


def test_no_more_workers_are_tried_than_there_may_be():
    found = compared(option(), asked(0.25, slo=0.5, max_workers=2))
    assert {each.deployment.scaling.max_workers for each in found.values()} == {2}


def test_the_crossing_is_where_a_flex_worker_costs_as_much_as_a_pod():
    """At half of a flex worker's price: where it is paid for half of the time."""
    crossing = find_crossing(asked(0.01), option())
    assert crossing.paid_share == 0.5
    scaling = Scaling(max_workers=1, cold_start_seconds=20.0)
    day = asked(crossing.requests_per_hour / 3600).simulate(ONE_AT_A_TIME, scaling)
    assert day.paid_seconds / 86_400 == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("prices", [{"pod": None}, {"flex": None}, {"flex": 0.001, "pod": 0.002}])
def test_there_is_no_crossing_without_both_prices_or_where_pods_are_dearer(prices):
    assert find_crossing(asked(0.01), option(**prices)) is None
