"""The stand-in engine of the tests of the worker and of batches."""

import pytest

from tests.support.stand_in_engine import running_stand_in


@pytest.fixture
def stand_in():
    """A stand-in engine and its runtime."""
    with running_stand_in() as (engine, runtime):
        yield engine, runtime


@pytest.fixture
def engine(stand_in):
    return stand_in[0]


@pytest.fixture
def runtime(stand_in):
    return stand_in[1]
