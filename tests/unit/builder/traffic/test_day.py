"""The traffic of a day: what its sources say, and when requests arrive."""

import random

import pytest

from builder.errors import InvalidArgument
from builder.traffic.day import (
    DAY_SECONDS,
    HOUR_SECONDS,
    Lengths,
    Segment,
    Traffic,
    constant_traffic,
    parse_schedule,
    read_traffic_file,
)


@pytest.mark.parametrize(
    ("hour", "rate"), [(9, 1000), (3, 20), (6, 510), (0, 183 + 1 / 3), (18, 510), (21, 346 + 2 / 3)]
)
def test_a_schedule_is_linear_between_its_times_and_over_midnight(hour, rate):
    traffic = parse_schedule("1000@09:00, 20@03:00")
    assert traffic.rate(hour * HOUR_SECONDS) * HOUR_SECONDS == pytest.approx(rate)


def test_the_requests_of_a_schedule_are_the_area_below_it():
    traffic = parse_schedule("1000@09:00,20@03:00")
    assert traffic.requests == pytest.approx(510 * 24)
    assert traffic.peak_rate * HOUR_SECONDS == pytest.approx(1000)


def test_one_time_is_the_rate_of_the_whole_day():
    traffic = parse_schedule("60@12:00")
    assert {traffic.rate(hour * HOUR_SECONDS) * 60 for hour in range(24)} == {1.0}


@pytest.mark.parametrize("text", ["", "1000", "x@09:00", "1000@24:00", "1000@09:60", "-1@09:00"])
def test_another_text_is_refused_with_what_it_must_be(text):
    with pytest.raises(InvalidArgument, match=r"^--traffic: '.*' must be requests an hour at a "):
        parse_schedule(text)


@pytest.mark.parametrize(
    "time", ["9:00", "09:00", "9:00:00", "09:00:00.5", "2026-11-29T09:00Z", "2026-11-29 09:00:00"]
)
def test_a_time_of_a_csv_file_may_be_written_in_many_ways(tmp_path, time):
    file = tmp_path / "day.csv"
    file.write_text(f"{time},54000\n")
    traffic = read_traffic_file(file)
    assert (traffic.rate(8 * HOUR_SECONDS), traffic.rate(10 * HOUR_SECONDS)) == pytest.approx(
        (0.0, 1.0), rel=1e-4
    )


def test_a_spike_of_a_second_costs_no_more_draws_than_its_requests():
    """The rate of each part of the day is the bound of its own arrivals."""
    traffic = Traffic("", (Segment(0, 1, 1000.0, 1000.0), Segment(1, DAY_SECONDS, 0.0, 0.0)))
    numbers = random.Random(1)
    drawn = []
    numbers.random = lambda: drawn.append(1) or 0.5
    assert len(list(traffic.arrivals(numbers))) < 2000
    assert len(drawn) < 4000


def test_a_csv_file_has_requests_from_each_time_to_the_next(tmp_path):
    file = tmp_path / "day.csv"
    file.write_text("# ours\ntime,requests\n8:00,3600\n09:00,1800\n10:00,0\n \n")
    traffic = read_traffic_file(file)
    rates = [traffic.rate(hour * HOUR_SECONDS) for hour in (7, 8, 8.9, 9, 10, 23)]
    assert rates == [0.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert (traffic.source, traffic.requests) == ("day.csv, 3 intervals", 5400.0)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("09:00,1\n08:00,1\n", "the times must be of one day, and go up"),
        ("2026-11-29T09:00,1\n2026-11-30T10:00,1\n", "the times must be of one day"),
        ("2026-11-29T09:00,1\n2026-11-29T09:00+00:00,1\n", "and go up"),
        ("09:00,1\n10:00,-1\n", "line 2 is '10:00,-1'; it must be a time (09:00)"),
        ("09:00,1\n10:00,nan\n", "line 2 is '10:00,nan'"),
        ("09:00,1\nten,1\n", "line 2 is 'ten,1'; it must be a time (09:00)"),
        ("09:00,1\n10:00,1,2\n", "line 2 is '10:00,1,2'"),
        ('"08:00","1,200"\n09:00,60\n', "line 1 is '08:00,1,200'"),
        ("nothing\n", "it is neither a CSV file with a time and requests in each line"),
        ("", "it is neither a CSV file"),
        ("2026-11-29T99:00:01\n", "it is neither a CSV file"),
        ("x" * 200_000, "it is neither a CSV file"),
    ],
)
def test_a_file_that_is_no_traffic_is_refused_with_the_reason(tmp_path, text, error):
    file = tmp_path / "day.csv"
    file.write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        read_traffic_file(file)
    assert error in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        '10.0.0.1 - - [{}/Nov/2026:{} +0000] "POST /v1/chat/completions HTTP/1.1" 200 17',
        "2026-11-{}T{}.123Z INFO /v1/chat/completions 200 ok",
        "2026-11-{} {} INFO a log, with a comma",
        "2026-11-{} {},123 INFO as Python writes it",
    ],
    ids=["common log format", "ISO", "ISO with a blank", "Python"],
)
def test_an_access_log_is_counted_in_five_minutes_of_its_busiest_day(tmp_path, line):
    times = [("28", "09:00:01"), ("29", "09:00:00"), ("29", "09:04:59"), ("29", "23:59:59")]
    file = tmp_path / "access.log"
    file.write_text("".join(line.format(*time) + "\n" for time in times) + "no time here\n")
    traffic = read_traffic_file(file)
    assert traffic.requests == pytest.approx(3)
    assert traffic.rate(9 * HOUR_SECONDS + 299) == pytest.approx(2 / 300)
    assert traffic.rate(9 * HOUR_SECONDS + 300) == 0.0
    assert traffic.source.startswith("access.log, ")
    assert traffic.source.endswith("29, the busiest of 2 days") or "29/Nov/2026" in traffic.source


def test_arrivals_are_as_many_as_the_rate_says_and_where_it_says():
    traffic = parse_schedule("20000@09:00,400@03:00")
    arrivals = list(traffic.arrivals(random.Random(1)))
    assert arrivals == sorted(arrivals)
    assert len(arrivals) == pytest.approx(traffic.requests, rel=0.01)
    morning = sum(8.5 <= each / HOUR_SECONDS < 9.5 for each in arrivals)
    assert morning == pytest.approx(18_912, rel=0.03)


def test_a_day_without_requests_has_no_arrivals():
    assert list(constant_traffic(0.0).arrivals(random.Random(1))) == []
    assert constant_traffic(0.0).segments[-1].end == DAY_SECONDS


@pytest.mark.parametrize("variation", [0.0, 0.5, 1.0, 2.0])
def test_lengths_have_their_mean_and_variation(variation):
    numbers = random.Random(1)
    drawn = [Lengths(300.0, variation).draw(numbers) for _ in range(100_000)]
    mean = sum(drawn) / len(drawn)
    deviation = (sum((each - mean) ** 2 for each in drawn) / len(drawn)) ** 0.5
    assert mean == pytest.approx(300, rel=0.02)
    assert deviation / mean == pytest.approx(variation, abs=0.03)
