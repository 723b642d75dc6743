"""The plan as a table for people, and as JSON for programs."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.plan.cards import Table
from builder.plan.estimate import Row, Wanted
from builder.plan.source import Source
from builder.plan.weights import Weights
from builder.quantize.recipe import GROUP_SIZES
from handler.memory.architecture import Architecture
from handler.memory.groups import obstacle

GB = 1e9
LATE = 1 << 24  # tokens: beyond every window
OTHER_SENSES = {"vision_config", "audio_config"}
IMAGE_GB = 50  # and what a container writes, beside the weights
USUAL_DISK_GB = 150  # of `deploy`
SHOWN = 2  # counts of a card that fit
HEAD = (
    *("GPU", "", "weights", "reserve", "KV cache", "context", "requests"),
    *("tok/s of one", "of all", "$/M tokens", ""),
)


@dataclass(frozen=True)
class Plan:
    """All that was found out."""

    source: Source
    model: Architecture
    weights: Weights
    wanted: Wanted
    table: Table
    rows: tuple[Row, ...]

    @property
    def best(self) -> Row | None:
        """The one that costs least a second; without prices, the one of least memory."""
        fitting = [row for row in self.rows if row.why_not is None]
        priced = [row for row in fitting if row.card.dollars_per_second is not None]
        return min(priced or fitting, key=_cost, default=None)

    @property
    def needs_fp8(self) -> bool:
        """Whether something is to be calculated in FP8."""
        return "fp8" in self.weights.method or self.wanted.kv_element_bytes == 1

    def notes(self) -> list[str]:
        """Return what has to be known beside the numbers."""
        notes = []
        own, context = self.model.context_tokens, self.wanted.context_tokens
        if own and context > own:
            notes.append(
                f"{context} tokens are beyond the model's own {own}: the engine refuses them "
                "unless the model is stretched (RoPE scaling, in HF_OVERRIDES)."
            )
        if not self.weights.is_made and OTHER_SENSES & self.source.config.keys():
            notes.append(
                "The checkpoint is not quantized, and reads more than text, which `builder "
                "quantize` does not take: look for a quantized repository of it."
            )
        elif not self.weights.is_made:
            notes.append(
                f"The checkpoint is not quantized. Make it first: python -m builder quantize "
                f"{self.source.name} --to {self.weights.method} --out FOLDER; MODEL_NAME is then "
                "the repository that it is pushed to, or its folder on a volume."
            )
        groups = self.weights.groups
        can_be_smaller = not self.weights.is_made and groups and groups.inputs > min(GROUP_SIZES)
        if groups and can_be_smaller and any(self._is_cut(row) for row in self.rows):
            notes.append(
                f"AWQ's groups of {groups.inputs} cannot be split over every number of GPUs. "
                "Smaller ones (quantize --group-size) divide more, and take a little more memory."
            )
        if self.needs_fp8 and any(not row.card.has_fp8 for row in self.rows):
            notes.append(
                "no FP8: not every card of the row calculates in it. It keeps and reads the small "
                "numbers and calculates in 16 bits, so that a long prompt takes as long as before."
            )
        notes.append(
            f"Tokens a second are what the memory's bandwidth allows; a worker is slower. Dollars "
            f"are those of a flex worker that is always full, as of {self.table.date}."
        )
        return notes

    def _is_cut(self, row: Row) -> bool:
        return obstacle(self.weights.groups, self.model, row.gpus, row.card.has_fp8) is not None

    @property
    def made_name(self) -> str:
        """What stands for the repository of a checkpoint that is still to be made."""
        return f"YOU/{Path(self.source.name).name}-{self.weights.method}"

    def environment(self, row: Row) -> dict[str, str]:
        """Return the variables for a worker on a row's GPUs."""
        context = min(self.wanted.context_tokens, self.model.context_tokens or 1 << 62)
        found = {
            "MODEL_NAME": self.source.name if self.weights.is_made else self.made_name,
            "MAX_MODEL_LEN": str(context),
            "MAX_NUM_SEQS": str(max(1, row.sequences)),
        }
        if row.gpus > 1:
            found["TENSOR_PARALLEL_SIZE"] = str(row.gpus)
        if self.wanted.asks_fp8_cache:
            # The one kind that cards without FP8 arithmetic take.
            found["KV_CACHE_DTYPE"] = "fp8" if row.card.has_fp8 else "fp8_e5m2"
        return found


def as_json(plan: Plan) -> dict[str, Any]:
    """Return everything, in bytes, tokens and dollars."""
    best = plan.best
    return {
        "model": plan.source.name,
        "at": plan.source.where,
        "weights": asdict(plan.weights),
        "layers": [asdict(each) for each in plan.model.layers],
        "kv_bytes_per_token": plan.model.kv_bytes_per_token(plan.wanted.kv_element_bytes),
        "kv_bytes_per_request": plan.model.kv_bytes(
            plan.wanted.request_tokens, plan.wanted.kv_element_bytes
        ),
        "kv_bytes_per_late_token": plan.model.kv_bytes_per_token(
            plan.wanted.kv_element_bytes, LATE
        ),
        "model_context_tokens": plan.model.context_tokens,
        "wanted": asdict(plan.wanted),
        "date_of_prices": plan.table.date,
        "rows": [asdict(row) for row in plan.rows],
        "best": None if best is None else {"pool": best.card.pool, "gpus": best.gpus},
        "environment": None if best is None else plan.environment(best),
        "notes": plan.notes(),
    }


def as_text(plan: Plan, everything: bool) -> str:
    """Return the table, what to know about it, and the environment to paste.

    Args:
        plan: the plan.
        everything: whether every count of every card is shown.
    """
    shown = plan.rows if everything else _worth_showing(plan.rows)
    lines = [*_facts(plan), "", *_aligned([HEAD, *(_cells(plan, row) for row in shown)]), ""]
    lines += plan.notes()
    best = plan.best
    if best is None:
        return "\n".join([*lines, "", "Nothing of this fits."])
    price = best.card.dollars_per_second
    costs = "" if price is None else f", ${price * best.gpus:.5f} a second"
    lines += ["", f"# {best.card.pool}: {best.gpus} × {best.card.name}{costs}"]
    lines += [f"{name}={value}" for name, value in plan.environment(best).items()]
    if plan.source.is_local and plan.weights.is_made:
        lines += ["", "An endpoint takes it from a repository, or baked into an image."]
    else:
        lines += ["", "As an endpoint:", _deployment(plan, best)]
    return "\n".join(lines)


def _deployment(plan: Plan, row: Row) -> str:
    """Return the command that makes an endpoint of it."""
    model, *others = plan.environment(row).items()
    disk_gb = (plan.weights.bytes // 10**10 + 1) * 10 + IMAGE_GB
    return " ".join(
        (
            f"python -m builder deploy --image YOUR/IMAGE --model {model[1]} --gpu {row.card.pool}",
            *([f"--gpu-count {row.gpus}"] if row.gpus > 1 else []),
            *([f"--disk {disk_gb}"] if disk_gb > USUAL_DISK_GB else []),
            *(f"--env {name}={value}" for name, value in others),
        )
    )


def _facts(plan: Plan) -> list[str]:
    model, weights, wanted = plan.model, plan.weights, plan.wanted
    layers = ", ".join(f"{each.count} {each.kind}" for each in model.layers)
    element = "fp8" if wanted.kv_element_bytes == 1 else "16-bit"
    is_new = "" if weights.is_made else ", estimated"
    of_token, late = (model.kv_bytes_per_token(wanted.kv_element_bytes, at) for at in (1, LATE))
    beyond = "" if late == of_token else f", {late:,} once the windows are full"
    of_request = model.kv_bytes(wanted.request_tokens, wanted.kv_element_bytes)
    return [
        f"model     {plan.source.name}, {plan.source.where}",
        f"weights   {weights.bytes / GB:.2f} GB, {weights.method}{is_new}",
        f"layers    {layers}; {model.heads} heads, {model.kv_heads} for keys and values",
        f"KV cache  {of_token:,} bytes a token{beyond} ({element}), "
        f"{of_request / GB:.3f} GB a request of {wanted.request_tokens} tokens",
        f"context   {wanted.context_tokens} tokens of the model's {model.context_tokens or 'own'}",
    ]


def _worth_showing(rows: Iterable[Row]) -> list[Row]:
    """Return of each card the first counts that fit, or the last that does not."""
    shown: list[Row] = []
    for pool in dict.fromkeys(row.card.pool for row in rows):
        own = [row for row in rows if row.card.pool == pool]
        fitting = [row for row in own if row.why_not is None]
        divisible = [row for row in own if "divide" not in (row.why_not or "")]
        shown += fitting[:SHOWN] or (divisible or own)[-1:]
    return shown


def _cells(plan: Plan, row: Row) -> Sequence[str]:
    name = f"{row.card.name} ({row.card.pool})"
    sizes = (f"{row.weights / GB:.1f} GB", f"{row.reserve / GB:.1f} GB")
    if row.why_not is not None:
        return (name, f"× {row.gpus}", *sizes, "", "", "", "", "", "", row.why_not)
    dollars = row.dollars_per_million_tokens
    return (
        *(name, f"× {row.gpus}", *sizes, f"{row.kv_cache / GB:.1f} GB", str(row.context_tokens)),
        *(str(row.sequences), f"{row.stream_tokens_per_second:.0f}"),
        *(f"{row.tokens_per_second:.0f}", "?" if dollars is None else f"{dollars:.3f}"),
        "no FP8" if plan.needs_fp8 and not row.card.has_fp8 else "",
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    last = len(HEAD) - 1
    return [
        "  ".join(
            text.ljust(width) if column in (0, last) else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cost(row: Row) -> float:
    price = row.card.dollars_per_second
    return row.gpus * (row.card.memory_bytes if price is None else price)
