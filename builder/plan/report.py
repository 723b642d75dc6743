"""The plan as a table for people, and as JSON for programs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from builder.cli import aligned
from builder.hub_listing import DISK_GB
from builder.plan.architecture import UNBOUNDED_TOKENS, Architecture
from builder.plan.estimate import Estimate, Workload
from builder.plan.model_metadata import ModelMetadata
from builder.plan.quantization_groups import QuantizationGroups, split_error
from builder.plan.weights import WeightSizes
from builder.plan.workload_kinds import KINDS, Setting, settings_for
from builder.quantize.recipe import GROUP_SIZES, MULTIMODAL_CONFIGS

GB = 1e9
EXTRA_DISK_GB = 50  # the image, and what a container writes
SHOWN_COUNTS = 2  # numbers of GPUs of a pool, from the smallest that fits on
LAYER_NAMES = {
    "full": "full attention",
    "sliding": "sliding window",
    "chunked": "chunked attention",
}
COLUMNS: dict[str, Callable[[Estimate], str]] = {
    "GPU": lambda each: f"{each.pool.label} ({each.pool.name})",
    "": lambda each: f"× {each.gpus}",
    "weights": lambda each: f"{each.weights_bytes / GB:.1f} GB",
    "reserve": lambda each: f"{each.reserve_bytes / GB:.1f} GB",
    "KV cache": lambda each: f"{each.kv_cache_bytes / GB:.1f} GB",
    "context": lambda each: str(each.context_tokens),
    "requests": lambda each: str(each.max_sequences),
    "tok/s each": lambda each: f"{each.tokens_per_second_per_request:.0f}",
    "tok/s all": lambda each: f"{each.tokens_per_second:.0f}",
    "$/M tokens": lambda each: (
        "?" if each.dollars_per_million_tokens is None else f"{each.dollars_per_million_tokens:.3f}"
    ),
}
SIZE_COLUMNS = 4  # the first ones, which are shown where the model does not fit too


@dataclass(frozen=True)
class Plan:
    """A model, the workload, and the estimates for every number of GPUs of every pool.

    Attributes:
        kind: of the requests, a key of KINDS; None where the user names none.
    """

    metadata: ModelMetadata
    model: Architecture
    weights: WeightSizes
    workload: Workload
    prices_date: str
    estimates: tuple[Estimate, ...]
    kind: str | None = None

    @property
    def best(self) -> Estimate | None:
        """The cheapest per second that fits; the one with the least memory if no price is known."""
        fitting = [each for each in self.estimates if each.obstacle is None]
        priced = [each for each in fitting if each.pool.dollars_per_second is not None]
        return min(
            priced or fitting,
            key=lambda each: each.gpus * (each.pool.dollars_per_second or each.pool.memory_bytes),
            default=None,
        )

    @property
    def needs_fp8(self) -> bool:
        """Whether weights or KV cache are in FP8."""
        return "fp8" in self.weights.method or self.workload.kv_element_bytes == 1

    def notes(self) -> list[str]:
        """Return remarks on the figures."""
        notes = []
        weights = self.weights
        own, context = self.model.context_tokens, self.workload.context_tokens
        if own and context > own:
            notes.append(
                f"{context} tokens are more than the model's own {own}: the engine refuses them "
                "unless RoPE scaling is set in HF_OVERRIDES."
            )
        is_multimodal = any(key in self.metadata.config for key in MULTIMODAL_CONFIGS)
        if not weights.is_published and is_multimodal:
            notes.append(
                "The checkpoint is not quantized, and `builder quantize` does not support "
                "multimodal models: look for a quantized repository of it."
            )
        elif not weights.is_published:
            notes.append(
                f"The checkpoint is not quantized. Quantize it first: python -m builder quantize "
                f"{self.metadata.name} --to {weights.method} --out FOLDER; MODEL_NAME is then the "
                "repository that it is pushed to, or its folder on a volume."
            )
        groups = weights.groups
        if groups and not weights.is_published and self._smaller_groups_may_split(groups):
            notes.append(
                f"AWQ's groups of {groups.inputs} cannot be split over every number of GPUs. "
                "Smaller groups (quantize --group-size) can be split further, and take a little "
                "more memory."
            )
        if self.needs_fp8 and any(not each.pool.has_fp8 for each in self.estimates):
            notes.append(
                "no FP8: not every GPU of the pool calculates in FP8. Others store FP8 and "
                "calculate in 16 bits: they save memory, but do not process prompts faster."
            )
        notes.append(
            "Tokens per second are an upper bound from the memory's bandwidth; a worker is slower. "
            f"Prices are those of a flex worker that is always full, as of {self.prices_date}."
        )
        return notes

    def _smaller_groups_may_split(self, groups: QuantizationGroups) -> bool:
        return groups.inputs > min(GROUP_SIZES) and any(
            split_error(groups, self.model, gpus=each.gpus, has_fp8=each.pool.has_fp8)
            for each in self.estimates
        )

    def environment(self, estimate: Estimate) -> dict[str, str]:
        """Return a worker's environment variables on the GPUs of an estimate."""
        name = self.metadata.name
        if not self.weights.is_published:
            name = f"YOU/{Path(name).name}-{self.weights.method}"
        context = self.workload.context_tokens
        context = min(context, self.model.context_tokens or context)
        variables = {
            "MODEL_NAME": name,
            "MAX_MODEL_LEN": str(context),
            "MAX_NUM_SEQS": str(max(1, estimate.max_sequences)),
        }
        if estimate.gpus > 1:
            variables["TENSOR_PARALLEL_SIZE"] = str(estimate.gpus)
        variables |= {each.name: each.value for each in self.settings(estimate)}
        if self.workload.sets_fp8_cache:
            # GPUs that do not calculate in FP8 support e5m2 only.
            variables["KV_CACHE_DTYPE"] = "fp8" if estimate.pool.has_fp8 else "fp8_e5m2"
        return variables

    def settings(self, estimate: Estimate) -> list[Setting]:
        """Return the settings that suit the kind of requests, none where no kind is named."""
        if self.kind is None:
            return []
        own = self.model.context_tokens or self.workload.context_tokens
        context = min(self.workload.context_tokens, own)
        has_short_cache = self.workload.kv_element_bytes == 1
        name = self.metadata.name
        return settings_for(self.kind, name, estimate, context, has_short_cache=has_short_cache)


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """Return everything; sizes are in bytes."""
    best, element_bytes = plan.best, plan.workload.kv_element_bytes
    return {
        "model": plan.metadata.name,
        "revision": plan.metadata.revision,
        "weights": asdict(plan.weights),
        "layers": [asdict(group) for group in plan.model.layers],
        "kv_bytes_per_token": plan.model.kv_bytes_per_token(element_bytes),
        "kv_bytes_per_token_beyond_windows": plan.model.kv_bytes_per_token(
            element_bytes, UNBOUNDED_TOKENS
        ),
        "kv_bytes_per_request": plan.model.kv_bytes(plan.workload.request_tokens, element_bytes),
        "model_context_tokens": plan.model.context_tokens,
        "workload": asdict(plan.workload),
        "prices_date": plan.prices_date,
        "estimates": [asdict(estimate) for estimate in plan.estimates],
        "best": None if best is None else {"pool": best.pool.name, "gpus": best.gpus},
        "environment": None if best is None else plan.environment(best),
        "engine": None if plan.kind is None else KINDS[plan.kind].engine,
        "settings": [] if best is None else [asdict(each) for each in plan.settings(best)],
        "notes": plan.notes(),
    }


def plan_as_text(plan: Plan, *, show_all: bool) -> str:
    """Return the table, its notes, and the environment to paste.

    The table has the numbers of GPUs that are worth showing, or all of them.
    """
    shown = plan.estimates if show_all else _worth_showing(plan.estimates)
    rows = [[*COLUMNS, ""], *(_cells(plan, estimate) for estimate in shown)]
    table = aligned(rows, left=(0, len(COLUMNS)))
    lines = [*_model_lines(plan), "", *table, "", *plan.notes(), ""]
    best = plan.best
    if best is None:
        return "\n".join([*lines, "No GPU fits."])
    price = best.pool.dollars_per_second
    costs = "" if price is None else f", ${price * best.gpus:.5f} per second"
    if plan.kind is not None:
        lines += [*_kind_lines(plan, plan.kind, best), ""]
    lines.append(f"# {best.pool.name}: {best.gpus} × {best.pool.label}{costs}")
    lines += [f"{name}={value}" for name, value in plan.environment(best).items()]
    if plan.metadata.commit is None and plan.weights.is_published:
        lines += [
            "",
            "To deploy it, upload this folder to the hub, or copy it to a network volume.",
        ]
    else:
        lines += ["", "To deploy it as an endpoint:", _deploy_command(plan, best)]
    return "\n".join(lines)


def _kind_lines(plan: Plan, kind: str, estimate: Estimate) -> list[str]:
    """Return the engine and the settings for a kind of requests, each with its reason."""
    chosen = KINDS[kind]
    engine, other = ("vLLM", "SGLang") if chosen.engine == "vllm" else ("SGLang", "vLLM")
    fits = f"{other} serves it as well" if chosen.both_fit else f"{other} does not serve it as well"
    lines = [f"{kind}: the image with {engine} ({chosen.why}); {fits}."]
    for each in plan.settings(estimate):
        lines += [f"  {each.name}={each.value}", f"      {each.reason}; watch {each.watch}"]
    return lines


def _deploy_command(plan: Plan, best: Estimate) -> str:
    variables = plan.environment(best)
    model = variables.pop("MODEL_NAME")
    disk_gb = (plan.weights.bytes // 10**10 + 1) * 10 + EXTRA_DISK_GB
    return " ".join(
        (
            f"python -m builder deploy --image YOUR/IMAGE --model {model} --gpu {best.pool.name}",
            *([f"--gpu-count {best.gpus}"] if best.gpus > 1 else []),
            *([f"--disk {disk_gb}"] if disk_gb > DISK_GB else []),
            *(f"--env {name}={value}" for name, value in variables.items()),
        )
    )


def _model_lines(plan: Plan) -> list[str]:
    model, weights, workload = plan.model, plan.weights, plan.workload
    element_bytes = workload.kv_element_bytes
    element = "FP8" if element_bytes == 1 else "16 bits"
    layers = ", ".join(
        f"{group.count} {LAYER_NAMES.get(group.kind, group.kind)}" for group in model.layers
    )
    estimated = "" if weights.is_published else ", estimated"
    first = model.kv_bytes_per_token(element_bytes)
    later = model.kv_bytes_per_token(element_bytes, UNBOUNDED_TOKENS)
    beyond = "" if later == first else f", {later:,} once the windows are full"
    request_gb = model.kv_bytes(workload.request_tokens, element_bytes) / GB
    return [
        f"model     {plan.metadata.name}, {plan.metadata.revision}",
        f"weights   {weights.bytes / GB:.2f} GB, {weights.method}{estimated}",
        f"layers    {layers}; {model.heads} attention heads, {model.kv_heads} KV heads",
        f"KV cache  {first:,} bytes per token{beyond} ({element}), "
        f"{request_gb:.3f} GB per request of {workload.request_tokens} tokens",
        f"context   {workload.context_tokens} tokens; the model's own is "
        f"{model.context_tokens or 'not given'}",
    ]


def _worth_showing(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Return the first numbers of GPUs of each pool that fit, or else the last that does not."""
    shown: list[Estimate] = []
    for _, group in groupby(estimates, key=lambda each: each.pool.name):
        of_pool = list(group)
        fitting = [each for each in of_pool if each.obstacle is None]
        can_split = [each for each in of_pool if each.can_split]
        shown += fitting[:SHOWN_COUNTS] or (can_split or of_pool)[-1:]
    return shown


def _cells(plan: Plan, estimate: Estimate) -> list[str]:
    cells = [cell(estimate) for cell in COLUMNS.values()]
    if estimate.obstacle is not None:
        return [*cells[:SIZE_COLUMNS], *[""] * (len(cells) - SIZE_COLUMNS), estimate.obstacle]
    return [*cells, "no FP8" if plan.needs_fp8 and not estimate.pool.has_fp8 else ""]
