"""Each name in other workers' documentation does with SGLang what docs/moving.md says."""

import pytest

from handler.engine.sglang.flags import engine_flags
from tests.contract.documented_names import check_effect, check_form, check_report, forms, outcomes

pytestmark = pytest.mark.filterwarnings("ignore")  # SGLang warns while it is imported


@pytest.fixture(scope="module")
def flags():
    """The flags of SGLang's parser."""
    return engine_flags()


@pytest.mark.parametrize(("name", "_"), outcomes("sglang", "works", "renamed"))
def test_a_name_that_works_changes_a_flag_or_a_setting(flags, name, _):
    check_effect("sglang", flags, name)


@pytest.mark.parametrize(("name", "expected"), outcomes("sglang", "gone", "stops", "silent"))
def test_a_name_that_does_nothing_is_reported(flags, caplog, name, expected):
    """With what replaces it; a setting of the other engine stops the start."""
    check_report("sglang", flags, name, expected, caplog)


@pytest.mark.parametrize("form", forms("sglang"))
def test_the_form_of_another_worker_starts_this_one(flags, form):
    """With its defaults; what was left blank is 0, false or empty."""
    check_form("sglang", flags, form)
