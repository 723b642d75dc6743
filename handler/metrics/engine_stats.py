"""Stats from the engine's Prometheus exposition, with the same fields for both engines.

`EngineStats` is one sample, `StatsWindow` the difference between two. SGLang updates its gauges
every 40 decode steps and when it becomes idle; its counters are missing until their first event.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.samples import Sample


@dataclass(frozen=True)
class EngineStats:
    """One sample of an engine; None for a metric that it does not have.

    Attributes:
        running: requests in the batch.
        waiting: requests in the engine's queue.
        kv_cache_usage: the used share of the KV cache, 0 to 1; the highest of several replicas.
        preemptions_total: requests that lost their KV cache to others.
        prefix_queries_total: prompt tokens looked up in the prefix cache.
        prefix_hits_total: prompt tokens found in the prefix cache.
        generation_tokens_total: generated tokens; SGLang's first token of a request is missing.
        spec_drafts_total: verified drafts, one per step and request; vLLM only, like the next two.
        spec_draft_tokens_total: drafted tokens.
        spec_accepted_tokens_total: drafted tokens that were accepted.
        spec_accepted_per_step: SGLang's gauge of accepted tokens per step, without the bonus token.
        spec_acceptance: SGLang's gauge of the acceptance rate, 0 to 1.
    """

    running: float | None = None
    waiting: float | None = None
    kv_cache_usage: float | None = None
    preemptions_total: float | None = None
    prefix_queries_total: float | None = None
    prefix_hits_total: float | None = None
    generation_tokens_total: float | None = None
    spec_drafts_total: float | None = None
    spec_draft_tokens_total: float | None = None
    spec_accepted_tokens_total: float | None = None
    spec_accepted_per_step: float | None = None
    spec_acceptance: float | None = None


@dataclass(frozen=True)
class MetricSource:
    """The metric of a field.

    Attributes:
        name: the name of the metric.
        modes: the values of its label `mode`, empty for all.
        largest: whether the largest sample counts instead of the sum.
    """

    name: str
    modes: tuple[str, ...] = ()
    largest: bool = False


VLLM = {
    "running": MetricSource("vllm:num_requests_running"),
    "waiting": MetricSource("vllm:num_requests_waiting"),
    "kv_cache_usage": MetricSource("vllm:kv_cache_usage_perc", largest=True),
    "preemptions_total": MetricSource("vllm:num_preemptions_total"),
    "prefix_queries_total": MetricSource("vllm:prefix_cache_queries_total"),
    "prefix_hits_total": MetricSource("vllm:prefix_cache_hits_total"),
    "generation_tokens_total": MetricSource("vllm:generation_tokens_total"),
    "spec_drafts_total": MetricSource("vllm:spec_decode_num_drafts_total"),
    "spec_draft_tokens_total": MetricSource("vllm:spec_decode_num_draft_tokens_total"),
    "spec_accepted_tokens_total": MetricSource("vllm:spec_decode_num_accepted_tokens_total"),
}
HITS = ("device_hit", "host_hit", "storage_hit")
SGLANG = {
    "running": MetricSource("sglang:num_running_reqs"),
    "waiting": MetricSource("sglang:num_queue_reqs"),
    "kv_cache_usage": MetricSource("sglang:token_usage", largest=True),
    "preemptions_total": MetricSource("sglang:num_retracted_requests_total"),
    # Counted at each prefill; sglang:cached_tokens_total counts at the end of a request.
    "prefix_queries_total": MetricSource("sglang:prefill_effective_tokens_total", ("input", *HITS)),
    "prefix_hits_total": MetricSource("sglang:prefill_effective_tokens_total", HITS),
    # Counted at each step; sglang:generation_tokens_total counts at the end of a request.
    "generation_tokens_total": MetricSource("sglang:realtime_tokens_total", ("decode",)),
    "spec_accepted_per_step": MetricSource("sglang:spec_accept_length", largest=True),
    "spec_acceptance": MetricSource("sglang:spec_accept_rate", largest=True),
}
# Labels of ranks: each rank of an engine reports the same requests.
RANKS = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})


def parse_stats(exposition: str) -> EngineStats:
    """Return the engine's stats; all None if the exposition has no engine metrics."""
    if any(line.startswith("sglang:") for line in exposition.splitlines()):
        return EngineStats(**_in_vllm_terms(_values(exposition, SGLANG)))
    return EngineStats(**_values(exposition, VLLM))


def _values(exposition: str, table: Mapping[str, MetricSource]) -> dict[str, float | None]:
    # Imported late: see prometheus.py.
    from prometheus_client.parser import text_string_to_metric_families

    # The parser is slow, and only about ten of 500 lines are needed.
    names = tuple(source.name for source in table.values())
    lines = "\n".join(line for line in exposition.splitlines() if line.startswith(names))
    families = text_string_to_metric_families(lines)
    samples = [sample for family in families for sample in family.samples]
    return {field: _value(samples, source) for field, source in table.items()}


def _value(samples: Iterable["Sample"], source: MetricSource) -> float | None:
    engines: dict[frozenset[tuple[str, str]], float] = {}
    for sample in samples:
        labels = sample.labels
        # SGLang's sample without a priority is the sum over all priorities.
        if sample.name != source.name or labels.get("priority"):
            continue
        if source.modes and labels.get("mode") not in source.modes:
            continue
        engine = frozenset(item for item in labels.items() if item[0] not in RANKS)
        engines[engine] = max(engines.get(engine, 0.0), sample.value)
    if not engines:
        return None
    return max(engines.values()) if source.largest else sum(engines.values())


def _in_vllm_terms(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return SGLang's values with vLLM's meaning.

    A missing counter is 0. The accept length is 0 without speculation, else it includes the bonus
    token ("accepted drafts + bonus token per forward" in its HELP).
    """
    counted = {
        name: 0.0 if name.endswith("_total") and value is None else value
        for name, value in values.items()
    }
    length = counted["spec_accepted_per_step"]
    if not length:
        return counted | {"spec_accepted_per_step": None, "spec_acceptance": None}
    return counted | {"spec_accepted_per_step": max(0.0, length - 1)}


@dataclass(frozen=True)
class StatsWindow:
    """The difference between two samples; None for an unknown value.

    Attributes:
        prefix_hit_ratio: the share of prompt tokens found in the prefix cache.
        accepted_tokens_per_step: accepted draft tokens per step, without the bonus token.
        acceptance_ratio: the share of drafted tokens that were accepted.
    """

    prefix_hit_ratio: float | None = None
    accepted_tokens_per_step: float | None = None
    acceptance_ratio: float | None = None
    preemptions: float | None = None


def window_between(before: EngineStats, after: EngineStats) -> StatsWindow:
    """Return the window between two samples."""
    grown = _growth(before, after)
    accepted = grown.spec_accepted_tokens_total
    per_step = _ratio(accepted, grown.spec_drafts_total)
    acceptance = _ratio(accepted, grown.spec_draft_tokens_total)
    if grown.spec_drafts_total is None and grown.generation_tokens_total:
        # A gauge keeps its last value while nothing is generated.
        per_step, acceptance = after.spec_accepted_per_step, after.spec_acceptance
    return StatsWindow(
        prefix_hit_ratio=_ratio(grown.prefix_hits_total, grown.prefix_queries_total),
        accepted_tokens_per_step=per_step,
        acceptance_ratio=acceptance,
        preemptions=grown.preemptions_total,
    )


def _growth(before: EngineStats, after: EngineStats) -> EngineStats:
    """Return the growth of each counter; its value if the engine was restarted."""
    now = {
        field.name: value
        for field in fields(EngineStats)
        if field.name.endswith("_total") and (value := getattr(after, field.name)) is not None
    }
    then = {name: getattr(before, name) or 0.0 for name in now}
    if any(now[name] < then[name] for name in now):
        return EngineStats(**now)
    return EngineStats(**{name: now[name] - then[name] for name in now})


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
