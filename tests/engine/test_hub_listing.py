"""The jobs of tests.json succeed on a worker."""

from builder.hub_listing import release_tests_json
from runpod_local import JobState


def test_each_job_of_the_release_tests_succeeds_on_the_demo_model(endpoint):
    for job in release_tests_json()["tests"]:
        done = endpoint.run(job["input"])
        assert (job["name"], done.state) == (job["name"], JobState.COMPLETED), done.error
