"""Names of vLLM that have moved between releases, and the modules that may have them.

0.20 to 0.26 were read for this, 0.32 was run: a machine with a GPU may have another release than
the worker's image.
"""

import importlib
from collections.abc import Mapping
from typing import Any

CLI_ARGS = (
    "vllm.entrypoints.common.cli_args",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.openai.cli_args",
)
API_SERVER = "vllm.entrypoints.openai.api_server"
MODULES: Mapping[str, tuple[str, ...]] = {
    "AsyncEngineArgs": ("vllm", "vllm.engine.arg_utils"),
    "AsyncLLM": ("vllm.v1.engine.async_llm",),
    "SamplingParams": ("vllm", "vllm.sampling_params"),
    "RequestOutputKind": ("vllm.sampling_params",),
    "FlexibleArgumentParser": ("vllm.utils.argparse_utils", "vllm.utils"),
    "make_arg_parser": CLI_ARGS,
    "validate_parsed_serve_args": CLI_ARGS,
    "build_app": ("vllm.entrypoints.launchers.app", API_SERVER),
    "init_app_state": ("vllm.entrypoints.launchers.api_server.app_state", API_SERVER),
    "build_async_engine_client": ("vllm.entrypoints.launchers.api_server.entry", API_SERVER),
}


def vllm_object(name: str) -> Any:
    """The object of that name from the first module of `MODULES` that has it.

    Raises:
        ImportError: none of them has it, or a module needs one that is not installed.
    """
    for path in MODULES[name]:
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if not f"{path}.".startswith(f"{error.name}."):
                raise  # the module is there, and what it imports is not
            continue
        if hasattr(module, name):
            return getattr(module, name)
    raise ImportError(f"this vLLM has no {name} in {', '.join(MODULES[name])}")
