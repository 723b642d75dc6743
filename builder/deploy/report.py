"""What an endpoint does at the moment, as lines."""

from collections.abc import Iterator

from builder.deploy.api import Api, Thing, kind_of, openai_of, root_of
from builder.deploy.wanted import at
from builder.deploy.workers import Workers


def report(api: Api, endpoint: Thing) -> Iterator[str]:
    """Give the endpoint's lines: its address, its workers, its jobs.

    Raises:
        DeployError: the API refuses, in one sentence.
    """
    listed = api.workers(str(endpoint["id"]))
    pools = ", ".join(at(endpoint, "gpu.pools") or ()) or "none"
    counts = at(endpoint, "workers") or {}
    yield f"endpoint  {endpoint['name']} ({endpoint['id']}), {kind_of(endpoint)}"
    yield f"address   {openai_of(endpoint)}"
    yield f"image     {endpoint.get('image')}"
    yield f"cards     {at(endpoint, 'gpu.count') or 1} of {pools}"
    limits = f"min {counts.get('min')}, max {counts.get('max')}"
    yield f"workers   {Workers.of_summary(listed)} ({limits})"
    for worker in listed.get("workers") or ():
        yield f"  {worker['id']}  {_doing(worker)}"
    if kind_of(endpoint) == "QUEUE":
        jobs = jobs_of(api, endpoint)
        yield (
            f"jobs      {jobs['inQueue']} in the queue, {jobs['inProgress']} in progress, "
            f"{jobs['completed']} completed, {jobs['failed']} failed, {jobs['retried']} retried"
        )


def jobs_of(api: Api, endpoint: Thing) -> dict[str, int]:
    """Return a queue's counts of jobs; a load balancer has none that anybody counts."""
    names = ("inQueue", "inProgress", "completed", "failed", "retried")
    health: Thing = {}
    if kind_of(endpoint) == "QUEUE":
        health = api.caller.get(f"{root_of(endpoint)}/health", f"endpoint {endpoint['id']}")
    counts = health.get("jobs") or {}
    return {name: int(counts.get(name) or 0) for name in names}


def _doing(worker: Thing) -> str:
    said = [str(worker.get("status")), worker.get("gpuTypeId"), worker.get("dataCenterId")]
    if worker.get("uptimeSeconds") is not None:
        said.append(f"for {worker['uptimeSeconds']} s")
    if worker.get("isStale"):
        said.append("of an older version")
    return ", ".join(str(each) for each in said if each)
