"""Over how many GPUs the engine spreads the model: `auto`, and counts that its heads do not allow.

GPUs are counted from the environment and the device files, never by CUDA: a process that has
initialised it can no longer fork its engine. What another node of a Ray cluster has is not known
here, nor whether a GPU has the memory for its share.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.checkpoint import json_object
from handler.errors import BadSetting

log = logging.getLogger(__name__)

TENSOR = ("TENSOR_PARALLEL_SIZE", "TP_SIZE")  # vLLM's name and SGLang's
PIPELINE = ("PIPELINE_PARALLEL_SIZE", "PP_SIZE")
DATA = ("DATA_PARALLEL_SIZE", "DP_SIZE")
IN_ENGINE_ARGS = re.compile(r"--?(tp|pp|dp|(tensor|pipeline|data)-parallel)\b")
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


def with_tensor_parallel_size(
    environ: Mapping[str, str], folder: Path, devices: Path = DEVICES
) -> Mapping[str, str]:
    """Return the environ with a number for `auto`, after a look at the model's heads.

    Args:
        environ: the variables.
        folder: the checkpoint's.
        devices: where the files of the GPUs are.

    Raises:
        BadSetting: the model's heads cannot be split over so many; names the counts that can be.
    """
    gpus = visible_gpus(environ, devices)
    heads, kv_heads = _heads(json_object(folder / "config.json"))
    made = dict(environ)
    for name in TENSOR:
        value = environ.get(name, "").strip()
        if value.lower() == "auto":
            made[name] = str(_share(environ, len(gpus)))
        if made.get(name, "").strip().isdecimal():
            _check(name, value, int(made[name]), heads, kv_heads, len(gpus))
    if len(gpus) > 1 and not _is_parallel(environ):
        log.warning(
            "the worker sees %d GPUs and uses one, the others (%s) are idle: "
            "TENSOR_PARALLEL_SIZE=auto takes all of them",
            len(gpus),
            ", ".join(gpus[1:]),
        )
    return made


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


def _is_parallel(environ: Mapping[str, str]) -> bool:
    named = any(environ.get(name, "").strip() for name in (*TENSOR, *PIPELINE, *DATA))
    return named or bool(IN_ENGINE_ARGS.search(environ.get("ENGINE_ARGS", "")))


def _check(
    name: str, value: str, size: int, heads: int | None, kv_heads: int | None, gpus: int
) -> None:
    if size < 1 or heads is None or _splits(size, heads, kv_heads):
        return
    limit = gpus if value.lower() == "auto" else max(gpus, LARGEST)
    counts = [str(n) for n in range(1, limit + 1) if _splits(n, heads, kv_heads)]
    seen = f"the worker has {size} GPUs for it, and " if value.lower() == "auto" else ""
    of_keys = f" ({kv_heads} of them for keys and values)" if kv_heads not in (None, heads) else ""
    raise BadSetting(
        f"{name}={value!r}: {seen}the model's {heads} attention heads{of_keys} can be split over "
        f"{', '.join(counts)}."
    )


def _splits(size: int, heads: int, kv_heads: int | None) -> bool:
    """Whether each GPU gets as many heads; those for keys and values may be copied instead."""
    kv_heads = kv_heads or heads
    return heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)


def _heads(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the numbers of attention heads and of those for keys and values, if it has them."""
    nested = config.get("text_config")
    text = nested if isinstance(nested, dict) and "num_attention_heads" in nested else config
    heads, kv_heads = (
        number if isinstance(number := text.get(name), int) and number > 0 else None
        for name in ("num_attention_heads", "num_key_value_heads")
    )
    return heads, kv_heads
