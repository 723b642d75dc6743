"""Over how many GPUs the engine spreads the model: `auto`, and counts that its heads do not allow.

GPUs are counted from the environment and the device files, never by CUDA: a process that has
initialised it can no longer fork its engine. What another node of a Ray cluster has is not known
here, nor whether a GPU has the memory for its share.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from handler.errors import InvalidSetting
from handler.model.attention import attention_heads, heads_split_evenly
from handler.model.checkpoint import json_object

log = logging.getLogger(__name__)

TENSOR = ("TENSOR_PARALLEL_SIZE", "TP_SIZE")  # vLLM's name and SGLang's
PIPELINE = ("PIPELINE_PARALLEL_SIZE", "PP_SIZE")
DATA = ("DATA_PARALLEL_SIZE", "DP_SIZE")
DEVICES = Path("/dev")
DEVICE = re.compile(r"nvidia(\d+)")
LARGEST = 16  # GPUs of one machine, as far as counts are suggested


def visible_gpus(environ: Mapping[str, str], devices: Path = DEVICES) -> list[str]:
    """Return the names of the GPUs that the engine will see: indices, or what the user named.

    CUDA sees nothing from the first entry on that names no GPU.
    """
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        found = [DEVICE.fullmatch(path.name) for path in devices.glob("nvidia*")]
        return [str(number) for number in sorted(int(match[1]) for match in found if match)]
    names = [name.strip() for name in chosen.split(",")]
    ends = [index for index, name in enumerate(names) if name in ("", "-1")]
    return names[: ends[0]] if ends else names


@dataclass(frozen=True)
class Parallelism:
    """How the engine spreads the model, as its parser has understood it.

    Attributes:
        tensor: ranks that share each layer.
        ranks: all of them, over stages and copies.
        groups: copies of the attention among the ranks of a layer (SGLang's DP attention).
    """

    tensor: int
    ranks: int
    groups: int = 1


def with_counted_gpus(environ: Mapping[str, str], devices: Path = DEVICES) -> Mapping[str, str]:
    """Return the environ with a number in place of `auto`.

    Args:
        environ: the variables.
        devices: where the files of the GPUs are.
    """
    count = str(_share(environ, len(visible_gpus(environ, devices))))
    auto = {name: count for name in TENSOR if environ.get(name, "").strip().lower() == "auto"}
    return {**environ, **auto}


def check(
    split: Parallelism, environ: Mapping[str, str], folder: Path, devices: Path = DEVICES
) -> None:
    """Judge the split by the model's heads, and warn where GPUs are left idle.

    Args:
        split: what the engine is going to do.
        environ: the variables.
        folder: the checkpoint's.
        devices: where the files of the GPUs are.

    Raises:
        InvalidSetting: the model's heads cannot be split over so many; names the counts that can be.
    """
    gpus = visible_gpus(environ, devices)
    _check_heads(split, environ, folder, len(gpus))
    if len(gpus) > 1 and split.ranks == 1 and not _is_chosen(environ):
        log.warning(
            "the worker sees %d GPUs and uses one, the others (%s) are idle: "
            "TENSOR_PARALLEL_SIZE=auto takes all of them",
            len(gpus),
            ", ".join(gpus[1:]),
        )


def _share(environ: Mapping[str, str], gpus: int) -> int:
    """Return how many of this machine's GPUs each copy of each pipeline stage gets."""
    # Ranks that may be on other machines: there the usual split is tensors within a machine and
    # the pipeline over them.
    apart = environ.get("DISTRIBUTED_EXECUTOR_BACKEND") == "ray" or _size(environ, "NNODES") > 1
    stages = 1 if apart else _size(environ, *PIPELINE)
    return max(1, gpus // (stages * _size(environ, *DATA)))


def _size(environ: Mapping[str, str], *names: str) -> int:
    """Return a size that is set, or 1; a value that is none is left to the engine's parser."""
    values = [environ.get(name, "").strip() for name in names]
    return max(1, *(int(value) for value in values if value.isdecimal()), 1)


def _is_chosen(environ: Mapping[str, str]) -> bool:
    return any(environ.get(name, "").strip() for name in (*TENSOR, *PIPELINE, *DATA))


def _check_heads(split: Parallelism, environ: Mapping[str, str], folder: Path, gpus: int) -> None:
    heads, kv_heads = attention_heads(json_object(folder / "config.json"))
    if heads is None or heads_split_evenly(split.tensor // split.groups, heads, kv_heads or heads):
        return
    name, value = _source(split.tensor, environ)
    auto = value.lower() == "auto"
    fitting = range(split.groups, (gpus if auto else max(gpus, LARGEST)) + 1, split.groups)
    counts = [
        str(n) for n in fitting if heads_split_evenly(n // split.groups, heads, kv_heads or heads)
    ]
    seen = f"the worker has {split.tensor} GPUs for it, and " if auto else ""
    of_keys = f" ({kv_heads} of them for keys and values)" if kv_heads not in (None, heads) else ""
    copies = f", in {split.groups} copies," if split.groups > 1 else ""
    raise InvalidSetting(
        f"{name}={value!r}: {seen}the model's {heads} attention heads{of_keys}{copies} can be "
        f"split over {', '.join(counts)}."
    )


def _source(size: int, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the variable that has said so, and its value; ENGINE_ARGS may have said otherwise."""
    for name in TENSOR:
        value = environ.get(name, "").strip()
        if value == str(size) or value.lower() == "auto":
            return name, value
    return "ENGINE_ARGS", environ.get("ENGINE_ARGS", "")
