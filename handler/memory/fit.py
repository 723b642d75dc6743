"""Whether a model can fit the GPUs that were found, before its weights are loaded.

Only what plainly cannot is refused: weights that are larger than the memory the engine may take,
or that leave no room for one request of the longest context. The engine would find out after
minutes of loading, and the platform would start the next worker to find it out again.
`python -m builder plan` tells more, and before anything is paid for.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from handler.errors import EngineStartFailed, ModelUnavailable
from handler.memory.architecture import ELEMENT_BYTES, Architecture, architecture
from handler.memory.gpus import memory_bytes
from handler.memory.groups import groups, obstacle
from handler.memory.layers import text_config
from handler.model.checkpoint import json_object
from handler.model.safetensors import in_folder

GB = 1e9
PLAIN = 0.95  # of the weights are loaded at least: an engine may leave out drafting layers
NEEDLESS = re.compile(r"visual|vision|audio")  # to a model that is served for text alone
COUNTS = (1, 2, 4, 8, 16)
FULL = 0.8  # of the memory, by weights, at most, where a number of GPUs is suggested
RESERVE_BYTES = 2 << 30  # for activations and graphs, where a context is suggested
ROUND_TOKENS = 256


@dataclass(frozen=True)
class Demand:
    """What the engine is going to do, as its parser has understood it.

    Attributes:
        name: the model's, for errors.
        folder: the checkpoint's.
        gpus: that share the weights of one copy of the model.
        tensor: those among them that share the heads of each layer.
        parts: in which the KV cache is spread besides: stages, and shares of the context.
        share: of each GPU's memory that the engine may take.
        share_setting: that says so; empty where nothing does.
        context_tokens: of the longest request, if the engine insists on room for one such; None if
            it does not, 0 for the model's own.
        context_setting: that says so.
        kv_element_bytes: of a number in the KV cache.
    """

    name: str
    folder: Path
    gpus: int
    tensor: int
    parts: int
    share: float
    share_setting: str
    context_tokens: int | None = None
    context_setting: str = "MAX_MODEL_LEN"
    kv_element_bytes: int = ELEMENT_BYTES


def check(demand: Demand, visible: list[str]) -> None:
    """Refuse what plainly cannot fit.

    Args:
        demand: the model and the flags.
        visible: the GPUs' names.

    Raises:
        EngineStartFailed: with the numbers, and what to change.
    """
    total = memory_bytes(visible)
    if total is None:
        return
    tensors = in_folder(demand.folder)
    weights = sum(tensor.loaded_bytes for tensor in tensors) / demand.gpus
    needless = sum(each.loaded_bytes for each in tensors if NEEDLESS.search(each.name))
    sure = PLAIN * (weights - needless / demand.gpus)
    allowed = total * demand.share
    model = _understood(demand.folder)
    found = _found(demand, weights, total, allowed)
    if sure > allowed:
        several = _several(demand, model, weights * demand.gpus, allowed)
        raise EngineStartFailed(
            f"{found}: take {several}a larger one, or a checkpoint of fewer bits (AWQ, FP8)."
        )
    if demand.context_tokens is None or model is None:
        return
    tokens = demand.context_tokens or model.usual_tokens
    needed = model.kv_bytes(tokens, demand.kv_element_bytes, demand.tensor) / demand.parts
    if sure + needed > allowed:
        raise EngineStartFailed(
            f"{found}, and one request of {tokens} tokens needs {needed / GB:.1f} GB of KV cache: "
            f"{_shorter(model, demand, allowed - weights)}take a larger GPU, or more of them "
            f"(TENSOR_PARALLEL_SIZE)."
        )


def largest_context(model: Architecture, room: float, element_bytes: int, gpus: int) -> int:
    """Return how many tokens of one request fit, rounded down; a bound of 2^24 is no bound."""
    low, high = 0, 1 << 24
    while high - low > 1:
        middle = (low + high) // 2
        if model.kv_bytes(middle, element_bytes, gpus) <= room:
            low = middle
        else:
            high = middle
    return low // ROUND_TOKENS * ROUND_TOKENS


def _understood(folder: Path) -> Architecture | None:
    """Return the architecture, None where it does not say all in the usual words.

    What would have to be guessed is the engine's to judge.
    """
    try:
        config = json_object(folder / "config.json")
        text = text_config(config)
        says_so = isinstance(text.get("num_key_value_heads"), int) or text.get("kv_lora_rank")
        return architecture(config) if says_so else None
    except ModelUnavailable:
        return None


def _found(demand: Demand, weights: float, total: int, allowed: float) -> str:
    each = f"{weights / GB:.1f} GB on each of {demand.gpus} GPUs" if demand.gpus > 1 else "on a GPU"
    text = (
        f"{demand.name} has {weights * demand.gpus / GB:.1f} GB of weights, {each} of "
        f"{total / GB:.1f} GB"
    )
    if not demand.share_setting:
        return text
    return (
        f"{text}, of which {demand.share_setting}={demand.share:g} lets the engine take "
        f"{allowed / GB:.1f} GB"
    )


def _several(demand: Demand, model: Architecture | None, weights: float, allowed: float) -> str:
    """Name a number of GPUs that would do, and that the layers can be split over."""
    shared = groups(json_object(demand.folder / "config.json")) if model else None
    for count in COUNTS:
        if weights / count > FULL * allowed:
            continue
        if model is None or (model.splits(count) and not obstacle(shared, model, count, True)):
            return f"{count} such GPUs (TENSOR_PARALLEL_SIZE={count}), "
    return ""


def _shorter(model: Architecture, demand: Demand, room: float) -> str:
    room = (room - RESERVE_BYTES) * demand.parts
    fits = largest_context(model, room, demand.kv_element_bytes, demand.tensor)
    return f"set {demand.context_setting} to at most {fits}, or " if fits else ""
