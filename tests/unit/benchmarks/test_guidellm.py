"""What is read of guidellm's report."""

from copy import deepcopy

import pytest

from benchmarks.cases.guidellm import read_loads

# Of guidellm 0.8.1, without what is not read.
REPORT = {
    "benchmarks": [
        {
            "config": {"strategy": {"streams": 16}},
            "duration": 7.000288963317871,
            "metrics": {
                "request_totals": {"successful": 32, "errored": 0, "incomplete": 0, "total": 32},
                "output_token_count": {"successful": {"min": 128.0, "max": 128.0}},
                "output_tokens_per_second": {"successful": {"mean": 585.118703165455}},
                "time_to_first_token_ms": {
                    "successful": {
                        "percentiles": {"p50": 231.7197322845459, "p99": 1057.997226715088}
                    }
                },
                "inter_token_latency_ms": {"successful": {"median": 16.74087591997282}},
                "request_latency": {"successful": {"median": 2.876990795135498}},
            },
            "requests": {"errored": [], "incomplete": []},
        }
    ]
}
NOT_FOUND = "HTTPStatusError(\"Client error '404 Not Found'\")"


def test_the_figures_are_read_in_seconds():
    assert read_loads(REPORT) == {
        16: {
            "output_tokens_per_second": 585.118703165455,
            "requests_per_second": 4.571239868480117,
            "ttft_p50_seconds": 0.2317197322845459,
            "ttft_p99_seconds": 1.057997226715088,
            "itl_p50_seconds": 0.01674087591997282,
            "e2e_latency_p50_seconds": 2.876990795135498,
        }
    }


@pytest.mark.parametrize(
    ("status", "error"),
    [("errored", NOT_FOUND), ("incomplete", None)],
    ids=["errored", "incomplete"],
)
def test_a_failed_request_is_an_error(status, error):
    report = deepcopy(REPORT)
    benchmark = report["benchmarks"][0]
    benchmark["metrics"]["request_totals"] |= {"successful": 31, status: 1}
    benchmark["requests"][status].append({"info": {"error": error}})
    with pytest.raises(RuntimeError) as failed:
        read_loads(report)
    assert str(failed.value) == f"1 of 32 requests of guidellm failed, the first with {error}"


def test_a_response_of_another_length_is_an_error():
    report = deepcopy(REPORT)
    report["benchmarks"][0]["metrics"]["output_token_count"]["successful"]["min"] = 127.0
    with pytest.raises(RuntimeError) as failed:
        read_loads(report)
    assert str(failed.value) == "the responses have 127 to 128 tokens instead of 128"
