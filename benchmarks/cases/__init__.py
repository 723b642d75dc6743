"""The cases, in the order of the report: one module each."""

from collections.abc import Mapping

from benchmarks.bench import Case
from benchmarks.cases import (
    accept_queue,
    day,
    delays,
    direct,
    engines,
    guidellm,
    http,
    long_prompts,
    main,
    memory,
    pace,
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
        pace,
        http,
        guidellm,
        accept_queue,
        long_prompts,
        start,
        delays,
        parsers,
        prefix,
        speculation,
        quantization,
        engines,
        day,
        memory,
        direct,
    )
}
