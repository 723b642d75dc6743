"""The cases: a module has one, and this is the list of them, in the order of the report."""

from benchmarks.case import Case
from benchmarks.cases import (
    delays,
    engines,
    http,
    main,
    memory,
    prefix,
    quantization,
    speculation,
)

CASES: dict[str, Case] = {
    module.CASE.name: module.CASE
    for module in (main, http, delays, prefix, speculation, quantization, engines, memory)
}
