"""The flags of SGLang: its parser, those that users cannot set, the worker's settings as flags."""

import argparse
import json
from typing import Any, NoReturn

from handler.engine.flags import speculative
from handler.engine.flags.parser import EngineFlags, FlagError
from handler.engine.preflight import MemoryDemand
from handler.engine.sglang.platform import CPU_ARGUMENTS, is_cpu
from handler.errors import InvalidSetting
from handler.model import mistral
from handler.model.checkpoint import file_names
from handler.model.resolve import ResolvedModel
from handler.settings.fields import Settings

# Flags of SGLang's own servers, which do not run here, and those that the worker sets.
REFUSED = frozenset(
    """
    help config host port fastapi_root_path smg_grpc_mode grpc_mode grpc_port sidecar sidecar_args
    skip_server_warmup warmups enable_http2 http2_max_concurrent_streams
    http2_initial_connection_window_size ssl_keyfile ssl_certfile ssl_ca_certs ssl_keyfile_password
    enable_ssl_refresh api_key admin_api_key log_level log_level_http file_storage_path
    uvicorn_access_log_exclude_prefixes smg_http_sidecar_port enable_http_worker_reuseport
    tokenizer_worker_num detokenizer_worker_num model_path served_model_name revision
    delete_ckpt_after_loading gated_launch_port use_ray
    """.split()
)

# Flags that must be above zero: sizes, shares, intervals. SGLang's parser does not check it. A flag
# that can be turned off takes -1 for that, or has a separate switch.
POSITIVE = frozenset(
    """
    context_length mem_fraction_static max_running_requests max_total_tokens chunked_prefill_size
    max_prefill_tokens prefill_max_requests schedule_conservativeness page_size
    swa_full_tokens_ratio max_mamba_cache_size
    tp_size pp_size dp_size ep_size attn_dp_size attn_cp_size dcp_size moe_dp_size
    moe_dense_tp_size nnodes gpu_id_step nccl_port dist_timeout stream_interval
    scheduler_recv_interval decode_log_interval num_continuous_decode_steps batch_notify_size
    cuda_graph_max_bs_decode cuda_graph_max_bs_prefill torch_compile_max_bs
    triton_attention_num_kv_splits hicache_ratio
    max_lora_rank max_loras_per_batch max_loaded_loras max_lora_chunk_size
    speculative_num_steps speculative_eagle_topk speculative_num_draft_tokens
    speculative_dflash_block_size speculative_dspark_block_size
    """.split()
)

# Values of QUANTIZATION that choose kernels for a quantized checkpoint, or quantize it further. For
# AWQ and GPTQ SGLang chooses Marlin where it can, and the plain name would turn it off.
KERNELS = frozenset(
    """
    w8a8_fp8 w8a8_int8 auto-round-int8 moe_wna16 humming modelopt_fp4 petit_nvfp4 nvfp4_online
    quark_mxfp4
    """.split()
)


def engine_flags() -> EngineFlags:
    """Return the flags of SGLang's parser that users may set."""
    from sglang.srt.server_args import ServerArgs

    parser = _Parser(allow_abbrev=False)
    ServerArgs.add_cli_args(parser)
    for action in parser._actions:
        action.required = False  # each value is parsed alone first
    return EngineFlags(parser, REFUSED, POSITIVE)


def memory_demand(args: Any, model: ResolvedModel) -> MemoryDemand | None:
    """Return the memory that the model needs, None if the checkpoint's files do not tell it.

    The context requires no room: SGLang starts with a smaller KV cache, and refuses the requests
    that do not fit into it.
    """
    is_smaller = args.quantization is not None and model.quantization is None
    if is_smaller or args.cpu_offload_gb or (args.offload_group_size or 0) > 0:
        return None
    return MemoryDemand(
        model_name=model.name,
        folder=model.path,
        gpus=args.tp_size * args.pp_size,
        tensor_parallel_size=args.tp_size,
        kv_cache_parts=args.pp_size,
        memory_fraction=args.mem_fraction_static or 1.0,
        memory_setting="MEM_FRACTION_STATIC" if args.mem_fraction_static else "",
    )


class _Parser(argparse.ArgumentParser):
    """A parser that raises where argparse would exit."""

    def error(self, message: str) -> NoReturn:
        raise FlagError(message)


def worker_arguments(
    settings: Settings, model: ResolvedModel, flags: EngineFlags, log_level: str
) -> list[str]:
    """Return the worker's settings as flags of SGLang."""
    arguments = [
        *(CPU_ARGUMENTS if is_cpu() else []),
        f"--model-path={model.path}",
        f"--served-model-name={_main_name(settings, model)}",
        f"--log-level={log_level.lower()}",
        "--sleep-on-idle",  # without it an idle scheduler takes a whole core
        "--enable-metrics",
        "--enable-cache-report",
    ]
    if settings.custom_chat_template:
        arguments += flags.argument(
            "CHAT_TEMPLATE", settings.custom_chat_template, "CUSTOM_CHAT_TEMPLATE"
        )
    is_new = not model.quantization and settings.quantization not in ("auto", "none")
    if is_new or settings.quantization in KERNELS:
        arguments += flags.argument("QUANTIZATION", settings.quantization)
    arguments += _speculative_arguments(settings, model, flags)
    if model.adapters:
        arguments += ["--enable-lora", "--lora-paths"]
        arguments += [
            json.dumps({"lora_name": adapter.name, "lora_path": str(adapter.path)})
            for adapter in model.adapters
        ]
    if mistral.is_used(file_names(model.path)):
        # SGLang chooses by the folder's name. The user's flags come later and override this.
        arguments.append("--model-config-parser=mistral")
    if model.tokenizer:
        arguments.append(f"--tokenizer-path={model.tokenizer}")
    return arguments


def _main_name(settings: Settings, model: ResolvedModel) -> str:
    """Return the only name that SGLang knows; the worker translates the others to it."""
    if not settings.model_names:
        return model.name
    name = settings.model_names[0]
    if ":" in name:
        raise InvalidSetting(f"SERVED_MODEL_NAME: {name!r} must have no colon with SGLang.")
    return name


def _speculative_arguments(
    settings: Settings, model: ResolvedModel, flags: EngineFlags
) -> list[str]:
    arguments: list[str] = []
    variable = "SPECULATIVE_CONFIG" if settings.speculative_config else "SPECULATIVE_METHOD"
    values = speculative.sglang_flags(
        settings.speculative_method,
        settings.num_speculative_tokens,
        model.draft,
        settings.speculative_config,
    )
    for name, value in values.items():
        if name not in flags.names:
            raise InvalidSetting(f"{variable}: SGLang has no flag {name}.")
        arguments += flags.argument(name, value, variable)
    return arguments
