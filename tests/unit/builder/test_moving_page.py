"""The page on moving from another worker says what each of that worker's names does here."""

import re

import pytest

from builder.moving_page import (
    ENGINES,
    EXAMPLES,
    WORKERS,
    Outcome,
    documented_names,
    outcome,
    update,
)
from handler.engine.flags.aliases import ALIAS_NAMES
from handler.engine.flags.removed_names import BOTH_ENGINES, REMOVED
from handler.settings.environ import setting_variables
from handler.settings.old_names import OLD_NAMES

NAMES = {name for names in documented_names().values() for name in names}


@pytest.mark.parametrize("engine", ENGINES)
def test_no_documented_name_does_nothing_without_a_word(engine):
    assert [name for name in sorted(NAMES) if outcome(engine, name).kind == "silent"] == []


@pytest.mark.parametrize("worker", WORKERS)
def test_no_documented_name_stops_the_start_with_its_own_engine(worker):
    engine = WORKERS[worker]
    names = documented_names()[worker]
    assert [name for name in names if outcome(engine, name).kind == "stops"] == []


def test_every_old_name_is_documented_and_has_an_example():
    assert OLD_NAMES.keys() == EXAMPLES.keys()
    assert OLD_NAMES.keys() - NAMES == set()


@pytest.mark.parametrize(
    ("engine", "name", "expected"),
    [
        ("vllm", "MAX_NUM_SEQS", Outcome("works")),
        ("vllm", "TASK", Outcome("renamed", "`RUNNER=pooling` `CONVERT=embed`")),
        ("vllm", "VLLM_PORT", Outcome("gone", "the worker has no inner server")),
        ("vllm", "SCHEDULE_POLICY", Outcome("stops")),
        ("vllm", "NO_NAME_OF_ANYBODY", Outcome("silent")),
        ("sglang", "MAX_NUM_REQS", Outcome("gone", "use MAX_RUNNING_REQUESTS")),
        ("vllm", "MAX_NUM_REQS", Outcome("gone", "it was a setting of SGLang")),
    ],
)
def test_the_outcome_of_a_name(engine, name, expected):
    assert outcome(engine, name) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_the_advice_names_settings_that_exist(engine):
    own = {name for names in setting_variables().values() for name in names} | ALIAS_NAMES
    advised = {
        name
        for advice in (BOTH_ENGINES | REMOVED[engine]).values()
        for name in re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", advice)
    }
    of_others = {"RUNPOD_INIT_TIMEOUT", "HF_XET_HIGH_PERFORMANCE"}
    unknown = {name for name in advised - own - of_others if outcome(engine, name).kind != "works"}
    assert unknown == set()


def test_a_page_without_its_blocks_is_refused():
    with pytest.raises(ValueError, match="must have the blocks worker-vllm, worker-sglang"):
        update("# Moving\n")
