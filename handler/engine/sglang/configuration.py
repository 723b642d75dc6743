"""What SGLang was started with, for a second start with less; see smaller_configuration.py.

SGLang reserves memory for a step beside weights and KV cache, by the sizes below. The rest is the
share of MEM_FRACTION_STATIC, unless the user has set it.
"""

from collections.abc import Sequence
from typing import Any

from handler.engine.flags.parallelism import Parallelism
from handler.engine.interface import Configuration
from handler.engine.preflight import min_weight_bytes
from handler.engine.sglang.flags import memory_demand
from handler.model.attention import kv_bytes_per_token
from handler.model.checkpoint import has_config, model_config
from handler.model.resolve import ResolvedModel
from handler.model.safetensors import tensors_in_folder
from handler.startup.gpus import Gpu

# SGLang, arg_groups/memory_hook.py
TOKEN_BYTES = 3 << 19  # of a batched token
GRAPH_BYTES = 2 << 20  # of each sequence of the largest graph
MIN_BATCHED_TOKENS = 2048  # fewer save nothing
# SGLang, mem_cache/kv_cache_configurator.py
USUAL_SEQUENCES = 2048
SLOT_BYTES = 4  # of a token in the table of each sequence
SETTINGS = {
    "batched_tokens": "CHUNKED_PREFILL_SIZE",
    "graphs": "CUDA_GRAPH_MAX_BS_DECODE",
    "sequences": "MAX_RUNNING_REQUESTS",
    "memory_fraction": "MEM_FRACTION_STATIC",
}
GRAPH_FLAGS = (
    "cuda_graph_config",
    "cuda_graph_backend_decode",
    "cuda_graph_max_bs_decode",
    "cuda_graph_bs_decode",
    "disable_cuda_graph",
    "disable_decode_cuda_graph",
)


def read_configuration(
    args: Any, gpus: Sequence[Gpu], split: Parallelism, model: ResolvedModel
) -> Configuration:
    """Return the values that SGLang derives from its resolved flags."""
    from sglang.srt.arg_groups.overrides import model_config_of, resolved_view

    view, config = resolved_view(args), model_config_of(args)
    decode = view.cuda_graph_config.decode
    sizes = () if decode.backend == "disabled" else tuple(decode.bs or ())
    kv_token_bytes, weight_bytes = None, 0
    if (demand := memory_demand(args, model)) and has_config(model.path):
        files = model_config(model.path)
        on_each_rank = kv_bytes_per_token(files, demand.kv_element_bytes, split.tensor)
        kv_token_bytes = on_each_rank and -(-on_each_rank // demand.kv_cache_parts)
        weight_bytes = int(min_weight_bytes(tensors_in_folder(model.path), demand.gpus))
    memory = [gpu.memory_bytes or 0 for gpu in gpus]
    return Configuration(
        batched_tokens=view.chunked_prefill_size,
        graph_sizes=sizes,
        sequences=view.max_running_requests or USUAL_SEQUENCES,
        model_tokens=config.context_len,
        token_bytes=TOKEN_BYTES,
        sequence_bytes=SLOT_BYTES * config.context_len,
        graph_bytes=GRAPH_BYTES * max(sizes, default=0),
        kv_token_bytes=kv_token_bytes,
        memory_fraction=view.mem_fraction_static,
        min_batched_tokens=MIN_BATCHED_TOKENS,
        min_graphs=1,
        has_own_cache=False,
        fixed=frozenset(_fixed(args._raw_input)),
        settings=SETTINGS,
        total_bytes=min(memory, default=0),
        weight_bytes=weight_bytes,
    )


def _fixed(given: Any) -> list[str]:
    """Return the fields that the user has set."""
    is_set = {
        "batched_tokens": given.get("chunked_prefill_size") is not None,
        "graphs": any(given.get(name) for name in GRAPH_FLAGS),
        "sequences": given.get("max_running_requests") is not None,
        "memory_fraction": given.get("mem_fraction_static") is not None,
    }
    return [field for field, value in is_set.items() if value]
