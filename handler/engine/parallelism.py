"""Parallelism: TENSOR_PARALLEL_SIZE=auto, and sizes that the model's heads cannot be split into.

GPUs are counted from the environment and the device files, never with CUDA: a process that has
initialised CUDA can no longer fork its engine. GPUs of other nodes are not counted, and memory is
not checked here.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from handler.errors import InvalidSetting
from handler.model.attention import attention_heads, heads_split_evenly
from handler.model.checkpoint import model_config
from handler.settings.types import TRUE_WORDS

log = logging.getLogger(__name__)

TENSOR = ("TENSOR_PARALLEL_SIZE", "TP_SIZE")  # vLLM's name and SGLang's
PIPELINE = ("PIPELINE_PARALLEL_SIZE", "PP_SIZE")
DATA = ("DATA_PARALLEL_SIZE", "DP_SIZE")
ATTENTION_DATA = ("ATTN_DP_SIZE", "ATTENTION_DATA_PARALLEL_SIZE")  # SGLang's
DEVICES = Path("/dev")
DEVICE = re.compile(r"nvidia(\d+)")
MAX_SUGGESTED_GPUS = 16


def visible_gpus(environ: Mapping[str, str], devices: Path = DEVICES) -> list[str]:
    """Return the GPUs that the engine will see: indices, or entries of CUDA_VISIBLE_DEVICES.

    CUDA ignores the first invalid entry of CUDA_VISIBLE_DEVICES and all after it.
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
    """How the engine spreads the model, from its parsed flags.

    Attributes:
        tensor: ranks that share each layer.
        ranks: all ranks, of all pipeline stages and replicas.
        groups: number of groups into which a layer's ranks are divided; the ranks of one group
            share the heads (SGLang's attention data parallelism and context parallelism).
    """

    tensor: int
    ranks: int
    groups: int = 1


def resolve_auto_tensor_parallel(
    environ: Mapping[str, str], devices: Path = DEVICES
) -> Mapping[str, str]:
    """Return the environ with a number in place of TENSOR_PARALLEL_SIZE=auto."""
    count = str(_gpus_per_stage(environ, len(visible_gpus(environ, devices))))
    auto = {name: count for name in TENSOR if environ.get(name, "").strip().lower() == "auto"}
    return {**environ, **auto}


def check_parallelism(
    parallelism: Parallelism,
    environ: Mapping[str, str],
    folder: Path,
    devices: Path = DEVICES,
) -> None:
    """Check that the heads of the checkpoint in `folder` can be split, and warn of idle GPUs.

    Raises:
        InvalidSetting: names the sizes that are possible.
    """
    gpus = visible_gpus(environ, devices)
    _check_heads(parallelism, environ, folder, len(gpus))
    if len(gpus) > 1 and parallelism.ranks == 1 and not _is_set(environ):
        log.warning(
            "the worker sees %d GPUs and uses one, the others (%s) are idle: "
            "TENSOR_PARALLEL_SIZE=auto uses all of them",
            len(gpus),
            ", ".join(gpus[1:]),
        )


def _gpus_per_stage(environ: Mapping[str, str], gpus: int) -> int:
    """Return how many of this machine's GPUs each pipeline stage of each replica gets."""
    # Over several machines the usual split is tensor parallelism within a machine and one
    # pipeline stage per machine.
    several_machines = (
        environ.get("DISTRIBUTED_EXECUTOR_BACKEND") == "ray" or _size(environ, "NNODES") > 1
    )
    stages = 1 if several_machines else _size(environ, *PIPELINE)
    return max(1, gpus // (stages * _replicas(environ)))


def _replicas(environ: Mapping[str, str]) -> int:
    """Return how many copies of the model there are.

    With the old ENABLE_DP_ATTENTION alone, SGLang's DP_SIZE counts attention groups among the ranks
    of one copy; beside ATTN_DP_SIZE it counts copies.
    """
    old_spelling = environ.get("ENABLE_DP_ATTENTION", "").strip().lower() in TRUE_WORDS
    groups_are_data = old_spelling and _size(environ, *ATTENTION_DATA) == 1
    return 1 if groups_are_data else _size(environ, *DATA)


def _size(environ: Mapping[str, str], *names: str) -> int:
    """Return the size that is set, or 1; the engine's parser refuses a value that is no number."""
    values = [environ.get(name, "").strip() for name in names]
    return max(1, *(int(value) for value in values if value.isdecimal()), 1)


def _is_set(environ: Mapping[str, str]) -> bool:
    return any(environ.get(name, "").strip() for name in (*TENSOR, *PIPELINE, *DATA))


def _check_heads(
    parallelism: Parallelism, environ: Mapping[str, str], folder: Path, gpus: int
) -> None:
    tensor, groups = parallelism.tensor, parallelism.groups
    heads, kv_heads = attention_heads(model_config(folder))
    if heads is None or heads_split_evenly(tensor // groups, heads, kv_heads or heads):
        return
    name, value = _variable_of_size(tensor, environ)
    auto = value.lower() == "auto"
    candidates = range(groups, (gpus if auto else max(gpus, MAX_SUGGESTED_GPUS)) + 1, groups)
    sizes = [
        str(n) for n in candidates if heads_split_evenly(n // groups, heads, kv_heads or heads)
    ]
    seen = f"the worker has {tensor} GPUs for it, and " if auto else ""
    kv = f" ({kv_heads} of them for keys and values)" if kv_heads not in (None, heads) else ""
    in_groups = f", in {groups} groups of ranks," if groups > 1 else ""
    raise InvalidSetting(
        f"{name}={value!r}: {seen}the model's {heads} attention heads{kv}{in_groups} can be "
        f"split over {', '.join(sizes)} GPUs."
    )


def _variable_of_size(size: int, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the variable that sets this size, and its value; ENGINE_ARGS if no other does."""
    for name in TENSOR:
        value = environ.get(name, "").strip()
        if value == str(size) or value.lower() == "auto":
            return name, value
    return "ENGINE_ARGS", environ.get("ENGINE_ARGS", "")
