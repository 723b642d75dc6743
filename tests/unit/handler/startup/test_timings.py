"""The stages of a start, in one table."""

import os
import subprocess
import sys
import time

from handler.startup.timings import StartupStage, StartupTimings, process_start_time


def test_the_table_is_in_the_order_of_time_and_its_total_ends_with_the_last_stage():
    timings = StartupTimings(began=1000.0)
    timings.add(StartupStage("engine", 1002.0, 5.0))
    timings.add(StartupStage("interpreter", 1000.0, 0.5), StartupStage("weights", 1003.25, 2.0))
    assert str(timings).splitlines() == [
        "the start took 7.00 s",
        "                  from     took",
        "  interpreter     0.00     0.50",
        "  engine          2.00     5.00",
        "  weights         3.25     2.00",
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
