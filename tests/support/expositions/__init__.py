"""Prometheus expositions: recorded ones of the engines, and the values of any."""

import re


def value(text: str, series: str, *, missing: float | None = None) -> float:
    """Return the value of a series, which may be named without its labels.

    Args:
        missing: what to return if there is no such series; None for an error.
    """
    found = re.search(rf"^{re.escape(series)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    if found is None and missing is not None:
        return missing
    assert found is not None, series
    return float(found[1])
