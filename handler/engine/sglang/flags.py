"""Names of flags that do not reach SGLang: those of its servers, and those that are gone."""

import argparse
from typing import NoReturn

from handler.engine.flags import EngineFlags, FlagError

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


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise FlagError(message)
