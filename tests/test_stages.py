"""The start's stages: what was timed by whom, in one table."""

import os
import subprocess
import sys
import time

from handler.startup.timings import StartupStage, StartupTimings, process_began


def test_the_table_is_in_the_order_of_time_and_its_total_ends_with_the_last_stage():
    """Stages of other processes come in late, and overlap."""
    stages = StartupTimings(began=1000.0)
    stages.add(StartupStage("engine", 1002.0, 5.0))
    stages.add(StartupStage("interpreter", 1000.0, 0.5), StartupStage("weights", 1003.25, 2.0))
    assert str(stages).splitlines() == [
        "the start took 7.00 s",
        "                  from     took",
        "  interpreter     0.00     0.50",
        "  engine          2.00     5.00",
        "  weights         3.25     2.00",
    ]


def test_a_stage_that_fails_is_not_in_the_table():
    """Half a stage says nothing."""
    stages = StartupTimings(time.time())
    try:
        with stages.stage("model"):
            raise ValueError
    except ValueError:
        pass
    assert list(stages) == []


def test_a_process_knows_when_it_was_started():
    """Not when its first line ran: what the interpreter took is the first stage."""
    code = "from handler.startup.timings import process_began; print(process_began())"
    before = time.time()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert before - tick <= float(said) <= time.time()
    assert process_began() < before
