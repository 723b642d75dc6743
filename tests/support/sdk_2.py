"""The tests that differ with SDK 2, as a plugin of pytest: `make test-next-sdk`.

Each fails there, for the reason given, and one that passes again is an error, but for those in
`SOMETIMES`. The page on upgrades has the same list.
"""

from importlib.metadata import version

import pytest

CONTRACT = "tests/contract/test_runpod.py"
PLATFORM = "tests/integration/test_runpod_local.py"
DIFFERENCES = {
    f"{CONTRACT}::test_the_version_is_the_one_of_the_table": "it is 2.0.0rc2",
    f"{CONTRACT}::test_the_sdk_asks_for_the_processor_at_its_import": "it asks when it is needed",
    f"{CONTRACT}::test_the_sdk_configures_the_root_logger_at_its_import": "it leaves it alone",
    f"{CONTRACT}::test_the_sdk_waits_a_tenth_of_a_second_before_it_looks_for_a_job": (
        "an event starts a job"
    ),
    f"{PLATFORM}::test_a_job_cancelled_during_a_post_ends_its_handler": (
        "the generator of a job that was cancelled during a POST is closed late"
    ),
    f"{PLATFORM}::test_a_user_who_disconnects_cancels_the_job": (
        "the same, if the user leaves during a POST"
    ),
    f"{PLATFORM}::test_a_ping_names_the_jobs_in_progress": "the version in a ping is 2.0.0rc2",
}
SOMETIMES = {
    f"{PLATFORM}::test_a_job_cancelled_during_a_post_ends_its_handler",
    f"{PLATFORM}::test_a_user_who_disconnects_cancels_the_job",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not version("runpod").startswith("2."):
        raise pytest.UsageError("the Runpod SDK of this environment is not 2")
    by_name = {item.nodeid: item for item in items}
    for name, reason in DIFFERENCES.items():
        if name not in by_name:
            raise pytest.UsageError(f"there is no test {name}")
        by_name[name].add_marker(pytest.mark.xfail(reason=reason, strict=name not in SOMETIMES))
