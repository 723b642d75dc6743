"""A shortage of GPU memory → the settings that a second start lowers, and what the user can change.

They are, in this order and no further than needed: the tokens of a batch, the CUDA graphs, the
sequences; the length only if these do not suffice, and then to what fits. A value that the user has
set stays. How much each saves is calculated as in the check before the start (preflight.py,
model/activations.py), or was measured by the ranks, or is what the engine itself reserves.

SGLang starts with a KV cache of any size, and has a share of the memory for weights and KV cache.
Where that is too small, it grows by what a smaller batch and fewer graphs need less. Where the rest
is too small, the KV cache gives what is missing.
"""

from collections.abc import Iterable
from dataclasses import replace

from handler.engine.failed_start.out_of_memory import Shortage
from handler.engine.failed_start.report import GRAPHS, KV_CACHE, MEASURE, Failure
from handler.engine.interface import AUTO, Configuration, LoweredSetting

Lowered = tuple[LoweredSetting, ...]
MARGIN_BYTES = 64 << 20  # vLLM rounds to 0.01 GiB, and two starts differ by some MiB
MIN_BATCHED_TOKENS = 512
MIN_SEQUENCES = 8
MIN_MODEL_TOKENS = 2048  # a shorter context serves few requests: rather lower the rest first
FRACTION_DIGITS = 3  # of the share of the memory, as SGLang rounds it
LARGER = (
    "use a larger GPU, more GPUs (TENSOR_PARALLEL_SIZE), or a checkpoint with fewer bits (AWQ, FP8)"
)


def smaller_configuration(shortage: Shortage, failure: Failure, start: Configuration) -> Lowered:
    """Return what a second start lowers, nothing if it would fail too."""
    if "memory_fraction" in start.settings:
        return _with_other_share(shortage, start)
    graph_bytes = failure.figures.get("graph_bytes") or start.graph_bytes
    if shortage.step == GRAPHS:  # what a smaller batch saves, the KV cache takes
        lowered, left = _lower(start, graph_bytes, shortage.missing, ("graphs", "sequences"))
        has_no_graphs = any(each.name == start.settings.get("no_graphs") for each in lowered)
        return lowered if left <= 0 or has_no_graphs else ()
    is_cache = shortage.available is not None
    if not is_cache and shortage.step != MEASURE:
        return ()
    names: tuple[str, ...] = ("batched_tokens", "graphs", "sequences")
    token_bytes = start.kv_token_bytes or 0
    if shortage.available is not None:
        names = () if start.has_own_cache else names
        without_cache = -shortage.available
        # As the engine has calculated it, where it says so.
        token_bytes = max(0, (shortage.missing - without_cache) // start.model_tokens)
    else:  # there was no KV cache yet, and no graph
        names = ("batched_tokens", "sequences")
        without_cache = shortage.missing + int((1 - start.memory_fraction) * shortage.total)
    full = without_cache + MARGIN_BYTES + start.model_tokens * token_bytes
    lowered, left = _lower(start, graph_bytes, full, names)
    if "model_tokens" in start.fixed:
        return lowered if left <= 0 else ()
    if left > 0:
        least = without_cache + min(start.model_tokens, MIN_MODEL_TOKENS) * token_bytes
        lowered, left = _lower(start, graph_bytes, least, names)
    if left > 0:
        return ()
    # With AUTO the engine keeps the length where all the rest has sufficed.
    return (*lowered, LoweredSetting(start.settings["model_tokens"], start.model_tokens, AUTO))


def _with_other_share(shortage: Shortage, start: Configuration) -> Lowered:
    """Return what a second start of SGLang lowers, and its share for weights and KV cache."""
    is_fixed = "memory_fraction" in start.fixed
    token_bytes = start.kv_token_bytes or 0
    least_tokens = min(start.model_tokens, MIN_MODEL_TOKENS)
    if not start.total_bytes:
        return ()
    if shortage.available is None:
        if shortage.step not in (KV_CACHE, GRAPHS):
            return ()
        if not is_fixed:  # SGLang's own advice; fewer graphs save little
            share = _share(start, -shortage.missing)
            needed = start.weight_bytes + least_tokens * token_bytes
            return (share,) if share.after * start.total_bytes > needed else ()
        # At the KV cache there are no graphs yet.
        names = ("graphs", "sequences") if shortage.step == GRAPHS else ("sequences",)
        lowered, left = _lower(start, start.graph_bytes, shortage.missing, names)
        return lowered if left <= 0 else ()
    if is_fixed:
        return ()
    for tokens in (start.model_tokens, least_tokens):
        missing = MARGIN_BYTES + tokens * token_bytes - shortage.available
        lowered, left = _lower(start, start.graph_bytes, missing, ("batched_tokens", "graphs"))
        if left <= 0:
            return (*lowered, _share(start, missing - left))
    return ()


def _share(start: Configuration, more_bytes: int) -> LoweredSetting:
    """Return the share of the memory for weights and KV cache with so many bytes more."""
    now = start.memory_fraction
    after = round(now + more_bytes / start.total_bytes, FRACTION_DIGITS)
    return LoweredSetting(start.settings["memory_fraction"], now, after)


def _lower(
    start: Configuration, graph_bytes: int, missing: int, names: Iterable[str]
) -> tuple[Lowered, int]:
    """Return the settings that save so many bytes, and what is still missing after them."""
    sizes = start.graph_sizes
    each_graph = graph_bytes // max(1, len(sizes))
    least_batch = max(MIN_BATCHED_TOKENS, start.min_batched_tokens)
    levers = {  # now, at least, step, bytes of each
        "batched_tokens": (start.batched_tokens, least_batch, 256, start.token_bytes),
        "graphs": (len(sizes), start.min_graphs, 1, each_graph),
        "sequences": (start.sequences, MIN_SEQUENCES, 8, start.sequence_bytes),
    }
    lowered = []
    for name in names:
        now, least, step, size = levers[name]
        if missing <= 0 or name in start.fixed or now <= least or not size:
            continue
        after = max(least, (now - -(-missing // size)) // step * step)
        missing -= (now - after) * size
        setting = LoweredSetting(start.settings[name], now, after)
        if name == "graphs" and after:
            setting = replace(setting, before=sizes[-1], after=sizes[after - 1])
        elif name == "graphs":
            setting = LoweredSetting(start.settings["no_graphs"], 0, 1)
        lowered.append(setting)
    return tuple(lowered), missing


def advice(shortage: Shortage, start: Configuration) -> str:
    """Return what the user can change so that the model fits."""
    if shortage.step not in (GRAPHS, MEASURE, KV_CACHE):
        return LARGER
    if shortage.fitting_tokens and "model_tokens" in start.fixed:
        return f"set {start.settings['model_tokens']} to at most {shortage.fitting_tokens}"
    is_share = shortage.available is not None and "memory_fraction" in start.settings
    if is_share and "memory_fraction" in start.fixed:
        return f"raise {start.settings['memory_fraction']}, or {LARGER}"
    lower = [
        name
        for field, name in start.settings.items()
        if field in start.fixed and not (is_share and field == "sequences")
    ]
    return f"lower {' or '.join(lower)}, or {LARGER}" if lower else LARGER
