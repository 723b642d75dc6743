"""vLLM's flags: its parser, the names that do not reach it, and what they say of memory."""

import argparse
import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from handler.engine.flags import EngineFlags, FlagError
from handler.engine.parallelism import Parallelism
from handler.engine.preflight import MemoryDemand
from handler.errors import InvalidSetting
from handler.model.checkpoint import has_fp8_cache
from handler.model.resolve import ResolvedModel

# Flags of vLLM's own HTTP server, which does not run here, and of what the worker decides. A
# container's environment often holds PORT, HOST or ROOT_PATH for another program.
REFUSED = frozenset(
    """
    help headless api_server_count config grpc grpc_port host port uds root_path middleware
    uvicorn_log_level disable_uvicorn_access_log disable_access_log_for_endpoints
    allow_credentials allowed_origins allowed_methods allowed_headers api_key
    ssl_keyfile ssl_certfile ssl_ca_certs enable_ssl_refresh ssl_cert_reqs ssl_ciphers
    enable_request_id_headers disable_fastapi_docs enable_offline_docs
    h11_max_incomplete_event_size h11_max_header_count data_parallel_supervisor_port
    dp_supervisor_probe_interval_s dp_supervisor_probe_timeout_s
    dp_supervisor_probe_failure_threshold model model_tag served_model_name revision
    hf_token log_level log_config_file
    """.split()
)

# Names that people have in their endpoints from older workers and older engines.
REMOVED = {
    "MAX_CONTEXT_LEN_TO_CAPTURE": "use COMPILATION_CONFIG with max_cudagraph_capture_size.",
    "MAX_SEQ_LEN_TO_CAPTURE": "use MAX_CUDAGRAPH_CAPTURE_SIZE.",
    "CUDA_GRAPH_SIZES": "use CUDAGRAPH_CAPTURE_SIZES.",
    "DISABLE_LOG_REQUESTS": "requests are not logged unless ENABLE_LOG_REQUESTS=true.",
    "GUIDED_DECODING_BACKEND": "use STRUCTURED_OUTPUTS_CONFIG with a backend.",
    "SWAP_SPACE": "the engine recomputes preempted requests; use KV_OFFLOADING_SIZE to offload.",
    "PREEMPTION_MODE": "the engine always recomputes preempted requests.",
    "USE_V2_BLOCK_MANAGER": "there is only one block manager.",
    "NUM_LOOKAHEAD_SLOTS": "the engine sets them from SPECULATIVE_CONFIG.",
    "NUM_SCHEDULER_STEPS": "use ASYNC_SCHEDULING.",
    "SCHEDULER_DELAY_FACTOR": "the scheduler has no delay any more.",
    "ROPE_SCALING": "use HF_OVERRIDES with rope_parameters.",
    "ROPE_THETA": "use HF_OVERRIDES with rope_parameters.",
    "TOKENIZER_POOL_SIZE": "the tokenizer needs no pool any more.",
    "TOKENIZER_POOL_TYPE": "the tokenizer needs no pool any more.",
    "TOKENIZER_POOL_EXTRA_CONFIG": "the tokenizer needs no pool any more.",
    "QUANTIZATION_PARAM_PATH": "scales are read from the checkpoint.",
    "LORA_EXTRA_VOCAB_SIZE": "adapters cannot add tokens any more.",
    "LONG_LORA_SCALING_FACTORS": "long LoRA is gone.",
    "WORKER_USE_RAY": "use DISTRIBUTED_EXECUTOR_BACKEND=ray.",
    "DEVICE": "the engine finds the device itself.",
    "OPENAI_RESPONSE_ROLE": "use RESPONSE_ROLE.",
    "RAW_OPENAI_OUTPUT": "the OpenAI route always streams raw events.",
    "DEFAULT_BATCH_SIZE": "streams are paced by the worker.",
    "DEFAULT_MIN_BATCH_SIZE": "streams are paced by the worker.",
    "DEFAULT_BATCH_SIZE_GROWTH_FACTOR": "streams are paced by the worker.",
    "VLLM_CONFIG_FILE": "set the flags as variables, or in ENGINE_ARGS.",
    "VLLM_ATTENTION_BACKEND": "use ATTENTION_BACKEND.",
    "VLLM_PORT": "the worker has no inner server.",
    "VLLM_STARTUP_TIMEOUT": "the platform's RUNPOD_INIT_TIMEOUT bounds the start.",
}


def engine_flags() -> EngineFlags:
    """Return the flags that vLLM's own parser knows, without those of its server."""
    parser = cli_args().make_arg_parser(_parser_class()(allow_abbrev=False))
    return EngineFlags(parser, REFUSED)


def cli_args() -> ModuleType:
    """Return the module with vLLM's argument parser, which 0.33 has moved."""
    try:
        return importlib.import_module("vllm.entrypoints.common.cli_args")
    except ModuleNotFoundError:
        return importlib.import_module("vllm.entrypoints.launchers.cli_args")


def _parser_class() -> type[argparse.ArgumentParser]:
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        """vLLM's parser, which raises where argparse would print its usage and exit."""

        def error(self, message: str) -> NoReturn:
            raise FlagError(message)

    return Parser


def import_plugins(args: argparse.Namespace) -> None:
    """Import parsers of the user's own, which vLLM's launcher does where that runs."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for variable, path, take in (
        ("TOOL_PARSER_PLUGIN", args.tool_parser_plugin, ToolParserManager.import_tool_parser),
        (
            "REASONING_PARSER_PLUGIN",
            args.reasoning_parser_plugin,
            ReasoningParserManager.import_reasoning_parser,
        ),
    ):
        if path.endswith(".py") and not Path(path).is_file():
            raise InvalidSetting(
                f"{variable}={path!r} is no file; a module's name is right as well."
            )
        if path:
            take(os.path.abspath(path) if path.endswith(".py") else path)


def check_names(args: argparse.Namespace) -> None:
    """Judge three names that vLLM's parser takes as free text, and refuses only much later."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for variable, value, known in (
        ("TOOL_CALL_PARSER", args.tool_call_parser, ToolParserManager.list_registered()),
        ("REASONING_PARSER", args.reasoning_parser, ReasoningParserManager.list_registered()),
        ("QUANTIZATION", args.quantization, QUANTIZATION_METHODS),
    ):
        if value and value not in known:
            raise InvalidSetting(f"{variable}={value!r}: choose from {', '.join(sorted(known))}")


def memory_demand(
    args: argparse.Namespace, split: Parallelism, model: ResolvedModel
) -> MemoryDemand | None:
    """Return what has to fit the GPUs, None where the checkpoint's files do not say it."""
    is_smaller = args.quantization is not None and model.quantization is None
    if is_smaller or args.cpu_offload_gb or args.offload_group_size:
        return None
    length = args.max_model_len
    has_own_cache = args.kv_cache_memory_bytes is not None
    element_bytes = _kv_element_bytes(str(args.kv_cache_dtype), model.path)
    is_open = has_own_cache or element_bytes is None or (length or 0) < 0
    stages, shares = args.pipeline_parallel_size, args.decode_context_parallel_size
    return MemoryDemand(
        model_name=model.name,
        folder=model.path,
        gpus=split.ranks if args.enable_expert_parallel else split.tensor * stages,
        tensor_parallel_size=split.tensor,
        kv_cache_parts=stages * shares * args.prefill_context_parallel_size,
        memory_fraction=1.0 if has_own_cache else args.gpu_memory_utilization,
        memory_setting="" if has_own_cache else "GPU_MEMORY_UTILIZATION",
        context_tokens=None if is_open else length or 0,
        kv_element_bytes=element_bytes or 0,
    )


def _kv_element_bytes(dtype: str, folder: Path) -> int | None:
    """Return the size of an element of the KV cache, None where it has fewer than 8 bits."""
    if dtype == "auto":
        return 1 if has_fp8_cache(folder) else 2
    if dtype.startswith(("fp8", "int8")):
        return 1
    return 2 if dtype in ("bfloat16", "float16", "half") else None
