"""Parallelism: TENSOR_PARALLEL_SIZE=auto, and sizes that the model's heads cannot be split into.

GPUs of other nodes are not counted, and memory is not checked here.
"""

import logging
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
MAX_SUGGESTED_GPUS = 16


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

    def ranks_on(self, gpu_count: int) -> int:
        """Return how many ranks a machine with so many GPUs has at most: each takes one.

        Without a GPU all of them run on the CPU.
        """
        return min(self.ranks, gpu_count or self.ranks)


def resolve_auto_tensor_parallel(environ: Mapping[str, str], gpu_count: int) -> Mapping[str, str]:
    """Return the environ with a number in place of TENSOR_PARALLEL_SIZE=auto.

    Args:
        environ: variables that may set sizes.
        gpu_count: of the GPUs that the engine will see on this machine.
    """
    count = str(_gpus_per_stage(environ, gpu_count))
    auto = {name: count for name in TENSOR if environ.get(name, "").strip().lower() == "auto"}
    return {**environ, **auto}


def check_parallelism(
    parallelism: Parallelism, environ: Mapping[str, str], folder: Path, gpu_count: int
) -> None:
    """Check that the heads of the checkpoint in `folder` can be split, and warn of idle GPUs.

    Args:
        parallelism: of the parsed flags.
        environ: variables that may set sizes, for the error.
        folder: of the checkpoint.
        gpu_count: of the GPUs that the engine will see on this machine.

    Raises:
        InvalidSetting: names the sizes that are possible.
    """
    _check_heads(parallelism, environ, folder, gpu_count)
    if gpu_count > 1 and parallelism.ranks == 1 and not _is_set(environ):
        log.warning(
            "the worker sees %d GPUs and uses the first, the others are idle: "
            "TENSOR_PARALLEL_SIZE=auto uses all of them",
            gpu_count,
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
