"""SGLang's flags: its parser, the names that do not reach it, and what they say of memory."""

import argparse
from typing import Any, NoReturn

from handler.engine.flags import EngineFlags, FlagError
from handler.engine.preflight import MemoryDemand
from handler.model.resolve import ResolvedModel

# Flags of SGLang's own servers, which do not run here, and of what the worker decides.
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

# Names that people have in their endpoints from other workers and older engines.
REMOVED = {
    "MAX_NUM_REQS": "use MAX_RUNNING_REQUESTS.",
    "ENABLE_FLASHINFER_MLA": "use ATTENTION_BACKEND=flashinfer.",
    "ENABLE_EP_MOE": "use EP_SIZE.",
    "STORAGE_PATH": "files are not stored.",
    "ADDITIONAL_PORTS": "the worker has no inner server.",
    "ENABLE_EAGLE": "use SPECULATIVE_METHOD=eagle.",
}


def engine_flags() -> EngineFlags:
    """Return the flags that SGLang's own parser knows, without those of its servers."""
    from sglang.srt.server_args import ServerArgs

    parser = _Parser(allow_abbrev=False)
    ServerArgs.add_cli_args(parser)
    for action in parser._actions:
        action.required = False  # each flag is judged alone before all are parsed
    return EngineFlags(parser, REFUSED)


def memory_demand(args: Any, model: ResolvedModel) -> MemoryDemand | None:
    """Return what has to fit the GPUs, None where the checkpoint's files do not say it.

    No room is required for a context: SGLang starts with a smaller KV cache, and refuses the
    requests that do not fit it.
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
    """Raises where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise FlagError(message)
