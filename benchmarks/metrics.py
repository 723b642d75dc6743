"""What a worker tells of itself on the route `metrics`."""

from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from runpod_local import Platform

TIMEOUT_SECONDS = 60.0


def text(platform: Platform) -> str:
    """Ask the worker behind the platform, by a job."""
    job = platform.wait(platform.submit({"route": "metrics"}), TIMEOUT_SECONDS)
    if job.error:
        raise RuntimeError(f"the worker gave no metrics: {job.error}")
    return str(job.output[0])


def total(exposition: str, name: str) -> float:
    """Return the sum of a metric over its labels; 0 where there is none."""
    return sum(sample.value for sample in _samples(exposition, name))


def by_label(exposition: str, name: str, label: str) -> dict[str, float]:
    """Return a metric's values by one of its labels, in the order of the text."""
    return {sample.labels[label]: sample.value for sample in _samples(exposition, name)}


def _samples(exposition: str, name: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(exposition):
        yield from (sample for sample in family.samples if sample.name == name)
