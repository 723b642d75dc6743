"""What a worker's time costs, and a request's share of it."""

import logging

import pytest

from handler.gpu_pools import load_gpu_table
from handler.metrics.cost import CostMeter, dollars_per_second
from handler.metrics.request_log import RequestRecord
from handler.settings.environ import load_settings
from handler.startup.gpus import Gpu


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_requests_share_the_price_of_each_moment(clock):
    """One alone from 0 to 2 s, two from 2 to 6 s, the second alone until 9 s."""
    meter = CostMeter(0.5, start_seconds=30.0, clock=clock)
    first = meter.begin()
    clock.now += 2
    second = meter.begin()
    clock.now += 4
    assert first.end() == pytest.approx(0.5 * (2 + 4 / 2))
    clock.now += 3
    assert second.end() == pytest.approx(0.5 * (4 / 2 + 3))


def test_the_shares_are_the_price_of_the_busy_time(clock):
    meter = CostMeter(2.0, start_seconds=30.0, clock=clock)
    shares = []
    for _ in range(10):
        shares.append(meter.begin())
        clock.now += 0.7
    dollars = sum(share.end() for share in shares)
    clock.now += 5
    assert dollars == pytest.approx(2.0 * 7)
    seconds = {"start": 30.0, "busy": pytest.approx(7.0), "idle": pytest.approx(5.0)}
    assert meter.seconds_by_state() == seconds
    gauges = meter.gauges()
    assert gauges["dollars_total"] == {
        "start": 60.0,
        "busy": pytest.approx(14.0),
        "idle": pytest.approx(10.0),
    }
    assert "request_dollars_per_second" not in gauges


def test_a_scrape_sees_the_requests_that_run(clock):
    meter = CostMeter(2.0, start_seconds=0.0, clock=clock)
    shares = [meter.begin(), meter.begin()]
    clock.now += 3
    gauges = meter.gauges()
    assert gauges["state_seconds_total"] == {"start": 0.0, "busy": 3.0, "idle": 0.0}
    assert (gauges["dollars_per_second"], gauges["request_dollars_per_second"]) == (2.0, 1.0)
    assert [share.end() for share in shares] == [3.0, 3.0]


def test_without_a_price_there_are_seconds_and_no_dollars(clock):
    meter = CostMeter(None, start_seconds=1.0, clock=clock)
    share = meter.begin()
    clock.now += 1
    assert share.end() is None
    assert meter.gauges() == {"state_seconds_total": {"start": 1.0, "busy": 1.0, "idle": 0.0}}


def test_the_log_line_of_a_request_has_its_dollars(clock, caplog):
    record = RequestRecord("r", cost=CostMeter(0.001, 0.0, clock))
    record.sent("/v1/chat/completions", b"{}")
    clock.now += 2
    record.sent("/v1/chat/completions", b"{}")  # again, for the same request
    with caplog.at_level(logging.INFO):
        record.finish()
    [line] = caplog.records
    assert line.fields["dollars"] == 0.002
    assert line.getMessage().endswith(" s, $0.002000")


def test_a_request_that_the_engine_never_got_costs_nothing(clock, caplog):
    meter = CostMeter(0.001, 0.0, clock)
    record = RequestRecord("r", cost=meter)
    clock.now += 2
    with caplog.at_level(logging.INFO):
        record.finish()
    assert record.dollars is None
    assert meter.seconds_by_state()["busy"] == 0.0


def gpus(name, count=1, uuid="GPU-1"):
    return [Gpu(name, (9, 0), 80 << 30, uuid)] * count


SERVERLESS = {"RUNPOD_ENDPOINT_ID": "ep", "RUNPOD_POD_ID": "w"}
POD = {"RUNPOD_POD_ID": "pod"}
H100 = next(pool for pool in load_gpu_table().pools if pool.name == "ADA_80_PRO")


@pytest.mark.parametrize(
    ("environ", "seen", "price"),
    [
        (SERVERLESS, gpus("NVIDIA H100 80GB HBM3"), H100.flex_dollars_per_hour / 3600),
        (SERVERLESS, gpus("NVIDIA H100 80GB HBM3", 2), 2 * H100.flex_dollars_per_hour / 3600),
        (POD, gpus("NVIDIA H100 80GB HBM3"), H100.pod_dollars_per_hour / 3600),
        ({}, gpus("NVIDIA H100 80GB HBM3"), None),
        (SERVERLESS, gpus("NVIDIA H100 80GB HBM3", uuid="MIG-1"), None),
        (SERVERLESS, gpus("NVIDIA GeForce GTX 1080"), None),
        (SERVERLESS, [], None),
        ({"PRICE_PER_SECOND": "0.002"}, [], 0.002),
        (SERVERLESS | {"PRICE_PER_SECOND": "0.002"}, gpus("NVIDIA L4"), 0.002),
        (POD | {"PRICE_PER_SECOND": "0"}, gpus("NVIDIA L4"), pytest.approx(0.27 / 3600)),
    ],
    ids=["serverless", "two", "Pod", "elsewhere", "slice", "unknown", "no GPU", "set", "both", "0"],
)
def test_the_price_is_the_setting_or_that_of_the_gpus_on_runpod(environ, seen, price):
    settings = load_settings({"MODEL_NAME": "org/m", **environ})
    assert dollars_per_second(settings, seen) == price
