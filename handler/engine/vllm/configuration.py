"""What vLLM was started with, for a second start with less; see smaller_configuration.py."""

import argparse
from collections.abc import Mapping
from typing import Any

from handler.engine.flags.parallelism import Parallelism
from handler.engine.interface import AUTO, Configuration
from handler.engine.vllm.flags import memory_demand
from handler.model.activations import step_bytes
from handler.model.attention import kv_bytes_per_token
from handler.model.checkpoint import has_config, model_config
from handler.model.resolve import ResolvedModel

SETTINGS = {
    "batched_tokens": "MAX_NUM_BATCHED_TOKENS",
    "graphs": "MAX_CUDAGRAPH_CAPTURE_SIZE",
    "no_graphs": "ENFORCE_EAGER",
    "sequences": "MAX_NUM_SEQS",
    "model_tokens": "MAX_MODEL_LEN",
}


def read_configuration(
    args: argparse.Namespace,
    environ: Mapping[str, str],
    split: Parallelism,
    model: ResolvedModel,
) -> Configuration:
    """Return the values that vLLM derives from the parsed flags, as its start does."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    config = AsyncEngineArgs.from_cli_args(args).create_engine_config(
        usage_context=UsageContext.OPENAI_API_SERVER
    )
    files = model_config(model.path) if has_config(model.path) else {}
    kv_token_bytes = None
    if demand := memory_demand(args, split, model):
        on_each_rank = kv_bytes_per_token(files, demand.kv_element_bytes, split.tensor)
        kv_token_bytes = on_each_rank and -(-on_each_rank // demand.kv_cache_parts)
    token_bytes, sequence_bytes = step_bytes(files, split.tensor)
    sizes = tuple(config.compilation_config.cudagraph_capture_sizes or ())
    return Configuration(
        batched_tokens=config.scheduler_config.max_num_batched_tokens,
        graph_sizes=sizes,
        sequences=config.scheduler_config.max_num_seqs,
        model_tokens=config.model_config.max_model_len,
        token_bytes=token_bytes,
        sequence_bytes=sequence_bytes,
        graph_bytes=token_bytes * max(sizes, default=0),
        kv_token_bytes=kv_token_bytes,
        memory_fraction=args.gpu_memory_utilization,
        min_batched_tokens=_min_batched_tokens(config),
        min_graphs=1 if environ.get("ENFORCE_EAGER") else 0,
        has_own_cache=args.kv_cache_memory_bytes is not None,
        fixed=frozenset(_fixed(args)),
        settings=SETTINGS,
    )


def _min_batched_tokens(config: Any) -> int:
    """Return the tokens of a step that decodes all sequences, draft tokens included."""
    speculation = config.speculative_config
    drafted = speculation.num_speculative_tokens or 0 if speculation else 0
    return int(config.scheduler_config.max_num_seqs * (1 + drafted))


def _fixed(args: argparse.Namespace) -> list[str]:
    """Return the fields that the user has set. vLLM's own values are not in its parsed flags."""
    sizes: tuple[Any, ...] = (args.cudagraph_capture_sizes, args.max_cudagraph_capture_size)
    compilation = args.compilation_config
    sizes += (compilation.cudagraph_capture_sizes, compilation.max_cudagraph_capture_size)
    is_set = {
        # Without chunks a batch holds the longest prompt.
        "batched_tokens": args.max_num_batched_tokens is not None
        or args.enable_chunked_prefill is False,
        "graphs": any(size is not None for size in sizes) or compilation.cudagraph_mode is not None,
        "sequences": args.max_num_seqs is not None,
        "model_tokens": args.max_model_len not in (None, AUTO),
    }
    return [field for field, value in is_set.items() if value]
