"""`plan --workload`: which settings suit a kind of requests, each with its reason.

The table is RULES. A value that depends on the model or the GPU is a function of the context.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from builder.plan.estimate import Estimate
from builder.presets import EAGLE_TOKENS, PRESETS, Preset

MANY_SEQUENCES = 64  # that fit without another type of the KV cache
LARGE_STEPS = ((70, "16384"), (40, "8192"))  # GiB of a GPU, tokens


@dataclass(frozen=True)
class WorkloadKind:
    """A kind of requests.

    Attributes:
        context_tokens: of the longest request, where the user names none.
        request_tokens: of a usual one.
        engine: the engine that suits it best.
        why: the reason for the engine.
        both_fit: whether the other engine serves it as well.
    """

    context_tokens: int
    request_tokens: int
    engine: str
    why: str
    both_fit: bool


KINDS: Mapping[str, WorkloadKind] = {
    "chat": WorkloadKind(8192, 1500, "vllm", "the default; one image for everything", True),
    "agents": WorkloadKind(
        32768, 8000, "sglang", "its prefix cache keeps every shared token of long tool loops", True
    ),
    "json": WorkloadKind(
        8192, 1500, "vllm", "both compile schemas with xgrammar, under the same limits", True
    ),
    "long-form": WorkloadKind(32768, 6000, "vllm", "the default", True),
    "batch": WorkloadKind(8192, 2000, "vllm", "the default; a job may hold 50,000 lines", True),
    "embeddings": WorkloadKind(
        8192, 500, "vllm", "one pooling model serves embeddings, rerank and score", False
    ),
}


@dataclass(frozen=True)
class SettingContext:
    """Where the settings are for: a kind of requests, a model and its GPUs.

    Attributes:
        has_short_cache: whether the estimate counts a KV cache of 8 bits already.
    """

    kind: str
    estimate: Estimate
    context_tokens: int
    preset: Preset | None
    has_short_cache: bool


@dataclass(frozen=True)
class Setting:
    """A variable with its value, why it has it, and which metric shows whether that is right."""

    name: str
    value: str
    reason: str
    watch: str


@dataclass(frozen=True)
class Rule:
    """One variable, for the kinds of requests that need it.

    Attributes:
        value: of the variable at a context, None to leave the engine's own.
    """

    name: str
    value: Callable[[SettingContext], str | None]
    reason: str
    watch: str


def _of_kinds(**values: str) -> Callable[[SettingContext], str | None]:
    """Return a value for some kinds; a `_` in a name stands for a dash."""
    return lambda context: values.get(context.kind.replace("-", "_"))


def _of_preset(name: str) -> Callable[[SettingContext], str | None]:
    """Return a variable of the model's preset, for the kinds of chats."""

    def value(context: SettingContext) -> str | None:
        if context.preset is None or context.kind in ("batch", "embeddings"):
            return None
        return context.preset.environment.get(name)

    return value


def _speculates(context: SettingContext, value: str) -> str | None:
    """Return a setting of the EAGLE-3 speculator, where few requests share a step.

    The presets' are in a format that only vLLM reads.
    """
    is_known = context.preset is not None and context.preset.speculator is not None
    return value if is_known and context.kind in ("chat", "long-form") else None


def _speculator(context: SettingContext) -> str:
    return (context.preset and context.preset.speculator) or ""


def _has_fp8_cache(context: SettingContext) -> bool:
    estimate = context.estimate
    few = estimate.max_sequences < MANY_SEQUENCES
    is_new = estimate.pool.has_fp8 and not context.has_short_cache
    return is_new and few and context.kind != "embeddings"


def _sequences(context: SettingContext) -> str:
    """Return how many usual requests fit, in 8 bits if the cache is to have these."""
    fitting = context.estimate.max_sequences * (2 if _has_fp8_cache(context) else 1)
    return str(max(1, fitting))


def _large_steps(context: SettingContext) -> str | None:
    """Return the tokens of a step, as far as the GPU has memory for their activations."""
    gib = context.estimate.pool.memory_bytes >> 30
    return next((tokens for least, tokens in LARGE_STEPS if gib >= least), None)


RULES = (
    Rule(
        "RUNNER",
        _of_kinds(embeddings="pooling"),
        "the model returns vectors and decodes nothing",
        "llm_worker_queue_seconds",
    ),
    Rule(
        "MAX_MODEL_LEN",
        lambda context: str(context.context_tokens),
        "the longest request; a longer context leaves room for fewer requests",
        'llm_worker_requests_total{result="refused"}',
    ),
    Rule(
        "MAX_NUM_SEQS",
        _sequences,
        "as many usual requests as the KV cache holds at once",
        "llm_worker_preemptions_total: lower it if this rises",
    ),
    Rule(
        "MAX_NUM_BATCHED_TOKENS",
        lambda context: (
            _large_steps(context)
            if context.kind in ("batch", "embeddings")
            else _of_kinds(chat="2048", json="2048", long_form="2048")(context)
        ),
        "the part of a prefill in one step: small keeps the streams' tokens even, large is faster "
        "where nobody watches",
        "llm_worker_inter_token_seconds and llm_worker_request_seconds",
    ),
    Rule(
        "KV_CACHE_DTYPE",
        lambda context: "fp8" if _has_fp8_cache(context) else None,
        f"twice the tokens in the same memory: in 16 bits fewer than {MANY_SEQUENCES} requests fit",
        "llm_worker_kv_cache_usage_ratio",
    ),
    Rule(
        "ENABLE_PREFIX_CACHING",
        _of_kinds(chat="true", agents="true", json="true", long_form="true", batch="true"),
        "system prompts, tools and earlier turns begin alike; PREFIX_WARMUP with yours fills the "
        "cache before the first job",
        "llm_worker_prefix_cache_hit_ratio",
    ),
    Rule(
        "SPECULATIVE_METHOD",
        lambda context: _speculates(context, "eagle3"),
        "drafts save steps while few requests share one; a full batch has no time to verify them",
        "llm_worker_speculation_pays",
    ),
    Rule(
        "SPECULATIVE_MODEL",
        lambda context: _speculates(context, _speculator(context)),
        "the public EAGLE-3 head of this model",
        "llm_worker_accepted_tokens_per_step",
    ),
    Rule(
        "NUM_SPECULATIVE_TOKENS",
        lambda context: _speculates(context, str(EAGLE_TOKENS)),
        "more drafts are accepted more rarely",
        "llm_worker_acceptance_ratio",
    ),
    Rule(
        "TOOL_CALL_PARSER",
        _of_preset("TOOL_CALL_PARSER"),
        "how this model writes tool calls",
        "tool calls in the text of answers",
    ),
    Rule(
        "ENABLE_AUTO_TOOL_CHOICE",
        _of_preset("ENABLE_AUTO_TOOL_CHOICE"),
        "the model decides whether to call a tool",
        'llm_worker_requests_total{result="refused"}',
    ),
    Rule(
        "REASONING_PARSER",
        _of_preset("REASONING_PARSER"),
        "how this model writes its reasoning",
        "reasoning in the text of answers",
    ),
)


def settings_for(
    kind: str,
    model: str,
    estimate: Estimate,
    context_tokens: int,
    *,
    has_short_cache: bool = False,
) -> list[Setting]:
    """Return the settings for a kind of requests.

    Args:
        model: the repository; parsers and speculator are known of the presets' models.
        estimate: of the model on the GPUs that are meant.
        context_tokens: of the longest request.
        has_short_cache: whether the estimate counts a KV cache of 8 bits already.
    """
    preset = next((each for each in PRESETS if each.model == model), None)
    context = SettingContext(kind, estimate, context_tokens, preset, has_short_cache)
    return [
        Setting(rule.name, value, rule.reason, rule.watch)
        for rule in RULES
        if (value := rule.value(context)) is not None
    ]
