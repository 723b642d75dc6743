"""What fits on some GPUs, how fast it can be and what it costs.

All of it is arithmetic: what has to be in memory, and what each step has to read from it. A real
worker is slower than its memory's bandwidth allows, and its activations are what the engine's own
measurement at start says; both are told by `make bench` and the start's log.
"""

from dataclasses import dataclass

from builder.plan.cards import Card
from builder.plan.weights import Weights
from handler.memory.architecture import ELEMENT_BYTES, Architecture
from handler.memory.fit import largest_context
from handler.memory.groups import obstacle

SHARE = 0.92  # of the memory: vLLM's own GPU_MEMORY_UTILIZATION
GIB = 1 << 30
GRAPHS_BYTES = GIB  # CUDA's context and the graphs of a decode step
# What vLLM batches from some memory on, in its server; an A100 has the least of them.
BATCHED_TOKENS = ((160 * GIB, 16384), (70 * GIB, 8192), (0, 2048))
MOST_SEQUENCES = 256
STEP = 8
STATES = 2  # of a recurrent layer, with prefixes cached


@dataclass(frozen=True)
class Wanted:
    """What the endpoint is for.

    Attributes:
        context_tokens: of the longest request.
        request_tokens: of a usual one, prompt and answer together.
        concurrency: requests at once that have to fit.
        kv_element_bytes: of a number in the KV cache.
        asks_fp8_cache: whether that is to be set, and not what the checkpoint says by itself.
    """

    context_tokens: int
    request_tokens: int
    concurrency: int = 1
    kv_element_bytes: int = ELEMENT_BYTES
    asks_fp8_cache: bool = False


@dataclass(frozen=True)
class Row:
    """Some GPUs of one kind; sizes are bytes of each.

    Attributes:
        card, gpus: which, and how many.
        weights, reserve, kv_cache: what each of them holds; `kv_cache` is negative where the
            others alone are too much.
        context_tokens: of the longest request that fits alone, the model's own at most.
        sequences: usual requests that fit at once, and a first MAX_NUM_SEQS.
        stream_tokens_per_second, tokens_per_second: the most that one request, and all of them,
            can decode.
        dollars_per_million_tokens: written by a worker that is always full; None without a price.
        why_not: what keeps it from fitting, None if it fits.
    """

    card: Card
    gpus: int
    weights: int
    reserve: int
    kv_cache: int
    context_tokens: int
    sequences: int
    stream_tokens_per_second: float
    tokens_per_second: float
    dollars_per_million_tokens: float | None
    why_not: str | None


def row(model: Architecture, weights: Weights, wanted: Wanted, card: Card, gpus: int) -> Row:
    """Estimate a model on some GPUs."""
    each = -(-weights.bytes // gpus)
    reserve = GRAPHS_BYTES + _activations(model, card, gpus)
    room = int(card.memory_bytes * SHARE) - each - reserve
    of_request = model.kv_bytes(wanted.request_tokens, wanted.kv_element_bytes, gpus, STATES)
    held = max(0, room) // max(1, of_request)
    sequences = _rounded(min(held, MOST_SEQUENCES))
    context = largest_context(model, room, wanted.kv_element_bytes, gpus)
    if model.context_tokens:
        context = min(context, model.context_tokens)
    one, full = (_decoded(model, weights, wanted, card, gpus, n) for n in (1, sequences))
    price = card.dollars_per_second
    return Row(
        *(card, gpus, each, reserve, room, max(0, context), sequences, one, full),
        None if price is None or not full else price * gpus / full * 1e6,
        _why_not(model, weights, wanted, card, gpus, room, held),
    )


def _why_not(
    model: Architecture,
    weights: Weights,
    wanted: Wanted,
    card: Card,
    gpus: int,
    room: int,
    held: int,
) -> str | None:
    if not model.splits(gpus):
        of_keys = f", {model.kv_heads} for keys and values," if model.heads % gpus == 0 else ""
        return f"{model.heads} heads{of_keys} do not divide by {gpus}"
    if why := obstacle(weights.groups, model, gpus, card.has_fp8):
        return why
    if wanted.kv_element_bytes == 1 and not card.has_fp8:
        if "fp8" in weights.method:
            return "no FP8: not for weights and KV cache both"
        if model.needs_fp8_for_fp8_cache:
            return "no FP8: not for the KV cache of this attention"
    if room <= 0:
        return "no room for the weights"
    if model.kv_bytes(wanted.context_tokens, wanted.kv_element_bytes, gpus) > room:
        return f"no room for {wanted.context_tokens} tokens"
    if held < wanted.concurrency:
        return f"room for {held} of {wanted.concurrency} requests"
    return None


def _activations(model: Architecture, card: Card, gpus: int) -> int:
    """Return what one step needs besides weights and cache: its widest layer, and the logits."""
    memory = 0 if "A100" in card.name else card.memory_bytes
    batched = next(tokens for least, tokens in BATCHED_TOKENS if memory >= least)
    layer = 6 * model.hidden + 3 * model.intermediate // gpus
    logits = 2 * MOST_SEQUENCES * model.vocabulary * 4
    return batched * layer * ELEMENT_BYTES + logits


def _decoded(
    model: Architecture, weights: Weights, wanted: Wanted, card: Card, gpus: int, sequences: int
) -> float:
    """Return the tokens a second at which reading weights and caches alone takes all the time."""
    read = weights.read_bytes(sequences, model.experts, model.experts_used) / gpus
    read += sequences * model.kv_bytes(wanted.request_tokens, wanted.kv_element_bytes, gpus)
    return sequences * card.bandwidth_gb_per_second * 1e9 / max(1.0, read)


def _rounded(count: int) -> int:
    return count if count < STEP else count // STEP * STEP
