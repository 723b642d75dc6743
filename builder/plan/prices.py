"""The prices of Runpod's GPUs as they are now, from the catalog of its API."""

from collections.abc import Mapping
from datetime import UTC, datetime

from builder.cli import Console
from builder.deploy.api import Timeouts, connect
from builder.deploy.api_errors import Json, invalid_answer
from handler.gpu_pools import GpuTable

WHAT = "the catalog of GPUs"


def live_prices(table: GpuTable, environ: Mapping[str, str], console: Console) -> GpuTable:
    """Return the table with the prices of now; a pool that the catalog lacks has none.

    A pool's Pod is the one with its cheapest GPU in the Secure Cloud, as in the table.

    Raises:
        DeployError: RUNPOD_API_KEY is missing or not valid, or the API fails.
    """
    with connect(environ, Timeouts(), console) as api:
        listed = api.request("GET", "catalog/gpus", WHAT).get("gpus")
    if not isinstance(listed, list):
        raise invalid_answer(WHAT)
    prices = {}
    for pool in table.pools:
        gpus = [each for each in listed if _is_of_pool(each, pool.name, table)]
        flex = [each["price"].get("serverless") for each in gpus]
        pods = [each["price"].get("secure") for each in gpus]
        prices[pool.name] = [min(filter(None, of_kind), default=None) for of_kind in (flex, pods)]
    return table.with_prices(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, live", prices)


def _is_of_pool(gpu: Json, pool: str, table: GpuTable) -> bool:
    """Whether it is a whole GPU of the pool that the table has; the catalog also lists slices."""
    if not isinstance(gpu, dict) or not isinstance(gpu.get("price"), dict):
        raise invalid_answer(WHAT)
    known = table.pool_of_device(str(gpu.get("name")))
    is_slice = "mig" in str(gpu.get("id")).lower()
    return gpu.get("pool") == pool and known is not None and known.name == pool and not is_slice
