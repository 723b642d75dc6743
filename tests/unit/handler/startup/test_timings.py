"""The stages of a start, in one table."""

import os
import subprocess
import sys
import time

from handler.startup.timings import StartupStage, StartupTimings, process_start_time


def start():
    """Return the timings of a start: an engine that consists of stages, and an SDK beside it."""
    timings = StartupTimings(began=1000.0)
    timings.add(StartupStage("engine", 1002.0, 5.0), StartupStage("interpreter", 1000.0, 0.5))
    timings.add(StartupStage("fork", 1002.0, 1.0), StartupStage("weights", 1003.25, 2.75))
    timings.add(StartupStage("SDK", 1003.0, 1.5, beside=True), StartupStage("app", 1006.0, 1.0))
    timings.add(StartupStage("imports", 1000.5, 1.5), StartupStage("warm-up", 1007.5, 0.25))
    return timings


def test_the_table_says_what_was_done_one_after_the_other_and_what_ran_beside_it():
    assert str(start()).splitlines() == [
        "the start took 7.75 s",
        "                     from     took",
        "  interpreter        0.00     0.50",
        "  imports            0.50     1.50",
        "  fork               2.00     1.00",
        "  SDK                3.00     0.25",  # nothing else was timed then
        "  weights            3.25     2.75",
        "  app                6.00     1.00",
        "  before warm-up     7.00     0.50",
        "  warm-up            7.50     0.25",
        "of it, or beside it",
        "  engine             2.00     5.00",
        "  SDK                3.00     1.50",
    ]


def test_the_stages_of_the_sequence_add_up_to_the_total():
    timings = start()
    steps = timings.sequence()
    assert sum(step.seconds for step in steps) == timings.total_seconds == 7.75
    assert [after.began for after in steps[1:]] == [step.ended for step in steps[:-1]]


def test_of_stages_that_overlap_the_later_one_has_what_is_left_of_it():
    timings = StartupTimings(began=0.0)
    timings.add(StartupStage("first", 0.0, 2.0), StartupStage("second", 1.0, 2.0))
    assert timings.sequence() == [StartupStage("first", 0.0, 2.0), StartupStage("second", 2.0, 1.0)]


def test_a_stage_that_runs_beside_others_and_ends_last_is_the_end_of_the_start():
    timings = StartupTimings(began=0.0)
    timings.add(StartupStage("engine", 0.0, 1.0), StartupStage("SDK", 0.5, 2.0, beside=True))
    assert timings.sequence() == [StartupStage("engine", 0.0, 1.0), StartupStage("SDK", 1.0, 1.5)]


def test_a_gap_shorter_than_the_table_shows_counts_with_the_stage_behind_it():
    timings = StartupTimings(began=0.0)
    timings.add(StartupStage("first", 0.0, 1.0), StartupStage("second", 1.0078125, 1.0))
    assert timings.sequence() == [
        StartupStage("first", 0.0, 1.0),
        StartupStage("second", 1.0, 1.0078125),
    ]


def test_the_end_of_a_gap_that_a_stage_beside_has_filled_counts_with_the_stage_behind_it():
    timings = StartupTimings(began=0.0)
    timings.add(StartupStage("model", 0.0, 1.0), StartupStage("flags", 4.0078125, 1.0))
    timings.add(StartupStage("imports", 0.5, 3.5, beside=True))
    assert timings.sequence() == [
        StartupStage("model", 0.0, 1.0),
        StartupStage("imports", 1.0, 3.0),
        StartupStage("flags", 4.0, 1.0078125),
    ]


def test_a_stage_that_fails_is_not_in_the_table():
    timings = StartupTimings(time.time())
    try:
        with timings.stage("model"):
            raise ValueError
    except ValueError:
        pass
    assert list(timings) == []


def test_the_start_of_a_process_is_before_its_first_line():
    code = "from handler.startup.timings import process_start_time; print(process_start_time())"
    before = time.time()
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert before - tick <= float(output) <= time.time()
    assert process_start_time() < before
