"""The flags of vLLM: its parser, those that users cannot set, the worker's settings as flags."""

import argparse
import importlib
import json
import os
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from handler.engine.flags import speculative
from handler.engine.flags.parallelism import Parallelism
from handler.engine.flags.parser import EngineFlags, FlagError
from handler.engine.preflight import MemoryDemand
from handler.errors import InvalidSetting
from handler.model.checkpoint import has_fp8_cache
from handler.model.resolve import ResolvedModel
from handler.settings.fields import Settings

# Flags of vLLM's own HTTP server, which does not run here, and those that the worker sets. A
# container often has PORT, HOST or ROOT_PATH for another program.
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

# Flags that must be above zero, beside those that vLLM's configuration declares.
POSITIVE = frozenset(
    """
    kv_cache_memory_bytes num_gpu_blocks_override max_cpu_loras master_port renderer_num_workers
    distributed_timeout_seconds cpu_distributed_timeout_seconds dcp_kv_cache_interleave_size
    cp_kv_cache_interleave_size
    """.split()
)

# Values of QUANTIZATION that choose kernels for a quantized checkpoint.
KERNELS = frozenset({"humming", "moe_wna16", "deepseek_v4_fp8"})

MAX_LORAS = 8  # in one batch; each takes memory, and further adapters take turns


def engine_flags() -> EngineFlags:
    """Return the flags of vLLM's parser that users may set."""
    parser = cli_args().make_arg_parser(_parser_class()(allow_abbrev=False))
    return EngineFlags(parser, REFUSED, POSITIVE | _fields_above_zero())


def _fields_above_zero() -> frozenset[str]:
    """Return the fields of vLLM's configuration that are declared with `gt=0` or `ge=1`.

    Each flag is a field of the same name.
    """
    from vllm import config

    classes = [each for each in vars(config).values() if is_dataclass(each)]
    return frozenset(
        name
        for each in classes
        for name, field in getattr(each, "__pydantic_fields__", {}).items()
        for limit in field.metadata
        if getattr(limit, "gt", None) == 0 or getattr(limit, "ge", None) == 1
    )


def cli_args() -> ModuleType:
    """Return the module with vLLM's argument parser, which has moved in 0.33."""
    try:
        return importlib.import_module("vllm.entrypoints.common.cli_args")
    except ModuleNotFoundError:
        return importlib.import_module("vllm.entrypoints.launchers.cli_args")


def _parser_class() -> type[argparse.ArgumentParser]:
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        """vLLM's parser, which raises where argparse would exit."""

        def error(self, message: str) -> NoReturn:
            raise FlagError(message)

    return Parser


def worker_arguments(
    settings: Settings, model: ResolvedModel, flags: EngineFlags, *, quiet: bool
) -> list[str]:
    """Return the worker's settings as flags of vLLM."""
    arguments = [
        f"--model={model.path}",
        "--served-model-name",
        *(settings.model_names or (model.name,)),
        "--enable-prompt-tokens-details",
    ]
    if settings.custom_chat_template:
        arguments += flags.argument(
            "CHAT_TEMPLATE", settings.custom_chat_template, "CUSTOM_CHAT_TEMPLATE"
        )
    if settings.allowed_media_domains:
        arguments += flags.argument("ALLOWED_MEDIA_DOMAINS", settings.allowed_media_domains)
    is_new = not model.quantization and settings.quantization not in ("auto", "none")
    if is_new or settings.quantization in KERNELS:
        # An unquantized checkpoint is quantized while it loads. For a quantized one vLLM chooses
        # the kernel, whichever of a family's names is given.
        arguments += flags.argument("QUANTIZATION", settings.quantization)
    if quiet:
        arguments.append("--no-use-tqdm-on-load")
    if settings.log_format == "json":
        arguments.append("--logging-config.formatter=json")
    speculative_config = speculative.vllm_config(
        settings.speculative_method,
        settings.num_speculative_tokens,
        model.draft,
        settings.speculative_config,
    )
    if speculative_config:
        arguments += flags.argument("SPECULATIVE_CONFIG", speculative_config)
    arguments += _lora_arguments(model, flags)
    if model.tokenizer:
        arguments.append(f"--tokenizer={model.tokenizer}")
    return arguments


def adapter_rank(model: ResolvedModel, flags: EngineFlags) -> int:
    """Return the MAX_LORA_RANK that the model's LoRA adapters need, 0 without any."""
    rank = max((adapter.rank for adapter in model.adapters), default=0)
    ranks = flags.choices("MAX_LORA_RANK")
    if rank > ranks[-1]:
        raise InvalidSetting(
            f"LORA_MODULES: rank {rank} is above the maximum of vLLM, {ranks[-1]}."
        )
    return next(each for each in ranks if each >= rank) if rank else 0


def _lora_arguments(model: ResolvedModel, flags: EngineFlags) -> list[str]:
    """Serve all LoRA adapters, with room for the largest rank."""
    if not model.adapters:
        return []
    modules = [json.dumps({"name": a.name, "path": str(a.path)}) for a in model.adapters]
    return [
        "--enable-lora",
        f"--max-lora-rank={adapter_rank(model, flags)}",
        f"--max-loras={min(len(modules), MAX_LORAS)}",
        "--lora-modules",
        *modules,
    ]


def import_parser_plugins(args: argparse.Namespace) -> None:
    """Import the user's own tool call and reasoning parsers, as `vllm serve` does."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for variable, plugin, import_parser in (
        ("TOOL_PARSER_PLUGIN", args.tool_parser_plugin, ToolParserManager.import_tool_parser),
        (
            "REASONING_PARSER_PLUGIN",
            args.reasoning_parser_plugin,
            ReasoningParserManager.import_reasoning_parser,
        ),
    ):
        if plugin.endswith(".py") and not Path(plugin).is_file():
            raise InvalidSetting(f"{variable}={plugin!r} is not a file: give a file or a module.")
        if plugin:
            import_parser(os.path.abspath(plugin) if plugin.endswith(".py") else plugin)


def check_names(args: argparse.Namespace) -> None:
    """Check three names that vLLM itself checks only after the weights are loaded."""
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
    """Return the memory that the model needs, None if the checkpoint's files do not tell it."""
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
