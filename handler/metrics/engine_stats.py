"""What an engine says of itself: its Prometheus exposition, in the same fields for both engines.

A `EngineStats` is one look; a `StatsWindow` is what happened between two. SGLang's gauges are those of its
last report, which it makes every 40 decode steps and when it falls idle, and a counter of its
appears with its first event. What is to be done about the figures this module does not know.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.samples import Sample


@dataclass(frozen=True)
class EngineStats:
    """One look at an engine; None where it has no such figure.

    Attributes:
        running: requests in the batch.
        waiting: requests that the engine has queued.
        kv_cache_usage: the part of the KV cache that requests hold, 0 to 1; of several engines
            the fullest.
        preemptions_total: times that a request has lost its KV cache to others.
        prefix_queries_total: prompt tokens that were looked for in the prefix cache.
        prefix_hits_total: those that were found.
        prompt_tokens_total: tokens of prompts; SGLang counts a request's when it has ended.
        generation_tokens_total: tokens written; SGLang's first token of each request is not in it.
        spec_drafts_total: drafts verified, one a step for each request; vLLM's, like the next two.
        spec_draft_tokens_total: tokens in them.
        spec_accepted_tokens_total: those that the model would have written as well.
        spec_accepted_per_step: SGLang's gauge of accepted tokens in a step, without the one that a
            step gives anyway.
        spec_acceptance: SGLang's gauge of accepted tokens to drafted ones, 0 to 1.
    """

    running: float | None = None
    waiting: float | None = None
    kv_cache_usage: float | None = None
    preemptions_total: float | None = None
    prefix_queries_total: float | None = None
    prefix_hits_total: float | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    spec_drafts_total: float | None = None
    spec_draft_tokens_total: float | None = None
    spec_accepted_tokens_total: float | None = None
    spec_accepted_per_step: float | None = None
    spec_acceptance: float | None = None


@dataclass(frozen=True)
class Series:
    """Where a field stands in an exposition.

    Attributes:
        name: the samples' name.
        modes: values of their label `mode`, none for all.
        largest: whether the largest sample is taken, and not the sum.
    """

    name: str
    modes: tuple[str, ...] = ()
    largest: bool = False


VLLM = {
    "running": Series("vllm:num_requests_running"),
    "waiting": Series("vllm:num_requests_waiting"),
    "kv_cache_usage": Series("vllm:kv_cache_usage_perc", largest=True),
    "preemptions_total": Series("vllm:num_preemptions_total"),
    "prefix_queries_total": Series("vllm:prefix_cache_queries_total"),
    "prefix_hits_total": Series("vllm:prefix_cache_hits_total"),
    "prompt_tokens_total": Series("vllm:prompt_tokens_total"),
    "generation_tokens_total": Series("vllm:generation_tokens_total"),
    "spec_drafts_total": Series("vllm:spec_decode_num_drafts_total"),
    "spec_draft_tokens_total": Series("vllm:spec_decode_num_draft_tokens_total"),
    "spec_accepted_tokens_total": Series("vllm:spec_decode_num_accepted_tokens_total"),
}
HITS = ("device_hit", "host_hit", "storage_hit")
SGLANG = {
    "running": Series("sglang:num_running_reqs"),
    "waiting": Series("sglang:num_queue_reqs"),
    "kv_cache_usage": Series("sglang:token_usage", largest=True),
    "preemptions_total": Series("sglang:num_retracted_requests_total"),
    # Counted with each prefill; sglang:cached_tokens_total only when a request has ended.
    "prefix_queries_total": Series("sglang:prefill_effective_tokens_total", ("input", *HITS)),
    "prefix_hits_total": Series("sglang:prefill_effective_tokens_total", HITS),
    "prompt_tokens_total": Series("sglang:prompt_tokens_total"),
    # Counted with each step; sglang:generation_tokens_total only when a request has ended.
    "generation_tokens_total": Series("sglang:realtime_tokens_total", ("decode",)),
    "spec_accepted_per_step": Series("sglang:spec_accept_length", largest=True),
    "spec_acceptance": Series("sglang:spec_accept_rate", largest=True),
}
# Ranks of one engine see the same requests, each in a series of its own.
RANKS = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})


def read(text: str) -> EngineStats:
    """Return what the exposition says of the engine; all None where there is no engine in it."""
    if any(line.startswith("sglang:") for line in text.splitlines()):
        return EngineStats(**_in_vllm_terms(_values(text, SGLANG)))
    return EngineStats(**_values(text, VLLM))


def _values(text: str, table: Mapping[str, Series]) -> dict[str, float | None]:
    # prometheus_client decides at its import whether several processes share it. SGLang's do, and
    # says so when it starts: nothing may import it before.
    from prometheus_client.parser import text_string_to_metric_families

    # The parser is slow, and of some five hundred lines about ten are wanted.
    names = tuple(series.name for series in table.values())
    wanted = "\n".join(line for line in text.splitlines() if line.startswith(names))
    families = text_string_to_metric_families(wanted)
    samples = [sample for family in families for sample in family.samples]
    return {field: _value(samples, series) for field, series in table.items()}


def _value(samples: Iterable["Sample"], series: Series) -> float | None:
    engines: dict[frozenset[tuple[str, str]], float] = {}
    for sample in samples:
        labels = sample.labels
        # With priorities, SGLang's sample without one is the sum of the others.
        if sample.name != series.name or labels.get("priority"):
            continue
        if series.modes and labels.get("mode") not in series.modes:
            continue
        engine = frozenset(item for item in labels.items() if item[0] not in RANKS)
        engines[engine] = max(engines.get(engine, 0.0), sample.value)
    if not engines:
        return None
    return max(engines.values()) if series.largest else sum(engines.values())


def _in_vllm_terms(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return SGLang's figures with vLLM's meaning.

    A counter that is not there yet is 0. The accepted length is 0 where nothing is speculated;
    else it has the token in it that a step gives anyway, "accepted drafts + bonus token per
    forward" as its HELP says.
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
    """What an engine did between two readings; None where nothing can be said.

    Attributes:
        prefix_hit_ratio: prompt tokens found in the prefix cache to those looked for.
        accepted_tokens_per_step: accepted draft tokens in a step of verification, without the one
            that a step gives anyway.
        acceptance_ratio: accepted draft tokens to drafted ones.
        generation_tokens_per_second: of all requests together.
        preemptions: how many there were.
    """

    prefix_hit_ratio: float | None = None
    accepted_tokens_per_step: float | None = None
    acceptance_ratio: float | None = None
    generation_tokens_per_second: float | None = None
    preemptions: float | None = None


def window(before: EngineStats, after: EngineStats, seconds: float) -> StatsWindow:
    """Return what happened in the seconds from one reading to the other."""
    grown = _growth(before, after)
    accepted = grown.spec_accepted_tokens_total
    per_step = _ratio(accepted, grown.spec_drafts_total)
    acceptance = _ratio(accepted, grown.spec_draft_tokens_total)
    if grown.spec_drafts_total is None and grown.generation_tokens_total:
        # A gauge keeps its last value when nothing is written any more.
        per_step, acceptance = after.spec_accepted_per_step, after.spec_acceptance
    return StatsWindow(
        prefix_hit_ratio=_ratio(grown.prefix_hits_total, grown.prefix_queries_total),
        accepted_tokens_per_step=per_step,
        acceptance_ratio=acceptance,
        generation_tokens_per_second=_ratio(grown.generation_tokens_total, seconds),
        preemptions=grown.preemptions_total,
    )


def _growth(before: EngineStats, after: EngineStats) -> EngineStats:
    """Return by how much each counter has grown; from 0 where the engine is another one."""
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
