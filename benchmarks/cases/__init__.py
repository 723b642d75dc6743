"""The cases, in the order of the report: one module each."""

from collections.abc import Mapping

from benchmarks.bench import Case
from benchmarks.cases import (
    delays,
    direct,
    engines,
    http,
    main,
    memory,
    parsers,
    prefix,
    quantization,
    speculation,
    start,
)

CASES: Mapping[str, Case] = {
    module.CASE.name: module.CASE
    for module in (
        main,
        http,
        start,
        delays,
        parsers,
        prefix,
        speculation,
        quantization,
        engines,
        memory,
        direct,
    )
}
