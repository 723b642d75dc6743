"""vLLM inside the worker: everything that knows vLLM's internals.

The surface is small, for it moves between releases: the argument parser, the engine client,
`build_app` and `init_app_state`. The names are those of vLLM 0.30 to 0.33;
`tests/contract/test_vllm.py` pins them.
"""

import argparse
import importlib
import importlib.metadata
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

from handler.checkpoint import WEIGHTS
from handler.engine import shared, speculation
from handler.engine.fields import request_fields
from handler.engine.flags import EngineFlags, FlagError, unused
from handler.engine.parallel import with_tensor_parallel_size
from handler.engine.processes import all_run, descendants_named
from handler.engine.protocol import Capacity, Running
from handler.errors import BadSetting, EngineStartFailed, ModelUnavailable
from handler.model import Model
from handler.settings import Settings, variables

log = logging.getLogger(__name__)

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

RANK = "VLLM::Worker"  # with one rank there is none: its work is done in the core's process

# What the engine's processes read. A value that the user has set stays.
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
# On CPU: no C++ build on the first request with logprobs (30 s), and 1 GiB of KV cache.
CPU_ENVIRONMENT = {
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
# Above INFO also torch and the kernels' libraries say only what went wrong.
QUIET_ENVIRONMENT = {
    "TORCH_LOGS": "-all",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
}


LORAS_PER_BATCH = 8  # each takes memory for its matrices; more adapters take turns


class VllmAdapter:
    """One vLLM engine and its OpenAI-compatible app; see `protocol.Adapter`.

    Args:
        settings: the worker's settings.
        model: where the weights are.
        environ: variables that may name flags of vLLM.
    """

    name = "vllm"

    def __init__(self, settings: Settings, model: Model, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._model = model
        self._environ = environ
        self._args: argparse.Namespace | None = None
        self.served_model_name = settings.served_model_name or model.name

    @staticmethod
    def flags() -> EngineFlags:
        """Return the flags that vLLM's own parser knows, without those of its server."""
        parser = cli_args().make_arg_parser(_parser_class()(allow_abbrev=False))
        return EngineFlags(parser, REFUSED)

    def prepare(self) -> None:
        """Nothing: off the main thread vLLM installs no handler, and sends no signal."""

    def check(self) -> None:
        """Import vLLM and let its parser judge every flag; see `protocol.Adapter.check`."""
        self._prepare_environment()
        log.info("importing vLLM %s", version())
        from vllm.exceptions import VLLMError
        from vllm.logger import configure_logging_from_args
        from vllm.renderers.chat_utils import validate_chat_template

        flags = self.flags()
        own = frozenset(name for names in variables().values() for name in names)
        known = own | flags.names | shared.NAMES
        shared.refuse_foreign("vllm", self._environ, known | REMOVED.keys())
        for line in unused(self._environ, known, REMOVED):
            log.warning(line)
        environ = with_tensor_parallel_size(self._environ, self._model.path)
        args = flags.parse(
            [
                *self._own_arguments(flags),
                *shared.arguments(flags, "vllm", environ),
                *flags.from_environ(environ, own | shared.NAMES),
                *flags.from_text(self._settings.engine_args),
            ]
        )
        if args.model_tag is not None:
            raise BadSetting(f"ENGINE_ARGS: {args.model_tag!r} is no flag; give flags only.")
        try:
            validate_chat_template(args.chat_template)
        except (VLLMError, TypeError, ValueError, OSError) as error:
            template = self._settings.custom_chat_template
            raise BadSetting(
                f"CUSTOM_CHAT_TEMPLATE={template!r} is neither a file nor a template."
            ) from error
        try:
            cli_args().validate_parsed_serve_args(args)
        except (VLLMError, TypeError, ValueError) as error:
            raise BadSetting(str(error).removeprefix("Error: ")) from error
        _check_names(args)
        if args.load_format == "auto" and not self._model.has_weights():
            # The engine finds out in a child process, whose log alone would say so.
            raise ModelUnavailable(f"{self._model.name} has no weights ({' '.join(WEIGHTS)}).")
        configure_logging_from_args(args)
        if _is_cpu_build():
            _place_on_cpu(args)
        self._args = args

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Running]:
        """Load the weights and build the app; see `protocol.Adapter.running`."""
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
        from vllm.entrypoints.launchers.app import build_app

        args = self._args
        if args is None:
            raise EngineStartFailed("check() was not called before the start")
        log.info("starting the engine")
        async with build_async_engine_client(args) as engine:
            if _is_cpu_build() and args.pipeline_parallel_size > 1:
                # The later stages take their input into tensors that the engine makes in its first
                # dry run, which it leaves out on a CPU where nothing is compiled.
                await engine.collective_rpc("execute_dummy_batch")
            tasks = await engine.get_supported_tasks()
            app = build_app(args, tasks, engine.model_config)
            await init_app_state(engine, app.state, args, tasks)
            # vLLM's error handlers tell its own server to end when the engine is dead; here it is
            # `EngineHost` that sees to that.
            app.state.server = SimpleNamespace(should_exit=False)
            _hide_paths(app.state.openai_serving_models)
            async with app.router.lifespan_context(app):
                config: Any = engine.vllm_config
                cache = config.cache_config
                ranks_run = all_run(descendants_named(RANK))
                yield Running(
                    app=app,
                    capacity=Capacity(
                        max_sequences=config.scheduler_config.max_num_seqs,
                        kv_cache_tokens=(cache.num_gpu_blocks or 0) * cache.block_size,
                        max_model_tokens=config.model_config.max_model_len,
                    ),
                    alive=lambda: ranks_run() and not engine.errored,
                    models={name: name for name in _models(app.state.openai_serving_models)},
                    generates="generate" in tasks,
                    request_fields=request_fields(app),
                )

    def _prepare_environment(self) -> None:
        """Set what vLLM and its child processes read from the environment."""
        defaults = {**ENVIRONMENT, "VLLM_LOGGING_LEVEL": self._settings.log_level}
        if _is_cpu_build():
            defaults |= CPU_ENVIRONMENT
        if self._is_quiet():
            defaults |= QUIET_ENVIRONMENT
        if self._model.is_local:
            defaults["HF_HUB_OFFLINE"] = "1"
        for name, value in defaults.items():
            os.environ.setdefault(name, value)
        # It would make the app ask its only caller, this worker, for a key.
        os.environ.pop("VLLM_API_KEY", None)

    def _is_quiet(self) -> bool:
        level = self._environ.get("VLLM_LOGGING_LEVEL", self._settings.log_level)
        return level.upper() in ("WARNING", "ERROR", "CRITICAL")

    def _own_arguments(self, flags: EngineFlags) -> list[str]:
        """Spell the worker's own settings as flags of vLLM."""
        settings = self._settings
        arguments = [
            f"--model={self._model.path}",
            f"--served-model-name={self.served_model_name}",
            "--enable-prompt-tokens-details",
        ]
        if settings.custom_chat_template:
            arguments += flags.argument(
                "CHAT_TEMPLATE", settings.custom_chat_template, "CUSTOM_CHAT_TEMPLATE"
            )
        if settings.quantization not in ("auto", "none") and not self._model.quantization:
            # Only an unquantized checkpoint is quantized on the way in: naming the method of a
            # pre-quantized one would turn the Marlin kernels off.
            arguments += flags.argument("QUANTIZATION", settings.quantization)
        if self._is_quiet():
            arguments.append("--no-use-tqdm-on-load")
        if settings.log_format == "json":
            arguments.append("--logging-config.formatter=json")
        speculative = speculation.vllm_config(
            settings.speculative_method,
            settings.num_speculative_tokens,
            self._model.draft,
            settings.speculative_config,
        )
        if speculative:
            arguments += flags.argument("SPECULATIVE_CONFIG", speculative)
        arguments += self._lora_arguments(flags)
        if self._model.tokenizer:
            arguments.append(f"--tokenizer={self._model.tokenizer}")
        return arguments

    def _lora_arguments(self, flags: EngineFlags) -> list[str]:
        """Serve the adapters, all of them in one batch, with room for the largest rank."""
        adapters = self._model.adapters
        if not adapters:
            return []
        ranks = flags.choices("MAX_LORA_RANK")
        rank = max(adapter.rank for adapter in adapters)
        fitting = next((r for r in ranks if r >= rank), None)
        if fitting is None:
            raise BadSetting(f"LORA_MODULES: rank {rank} is above vLLM's largest, {ranks[-1]}.")
        modules = [json.dumps({"name": a.name, "path": str(a.path)}) for a in adapters]
        return [
            "--enable-lora",
            f"--max-lora-rank={fitting}",
            f"--max-loras={min(len(adapters), LORAS_PER_BATCH)}",
            "--lora-modules",
            *modules,
        ]


def _models(serving: Any) -> list[str]:
    return [base.name for base in serving.base_model_paths] + list(serving.lora_requests)


def _hide_paths(serving: Any) -> None:
    """Have /v1/models say names where it would show this machine's paths, as `root`."""
    show = serving.show_available_models

    async def shown() -> Any:
        listed = await show()
        for card in listed.data:
            card.root = card.id
        return listed

    serving.show_available_models = shown


def cli_args() -> ModuleType:
    """Return the module with vLLM's argument parser, which 0.33 has moved."""
    try:
        return importlib.import_module("vllm.entrypoints.common.cli_args")
    except ModuleNotFoundError:
        return importlib.import_module("vllm.entrypoints.launchers.cli_args")


def version() -> str:
    """Return the engine's version. vLLM's CPU build is a distribution of another name."""
    return importlib.metadata.version("vllm-cpu" if _is_cpu_build() else "vllm")


def _is_cpu_build() -> bool:
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _place_on_cpu(args: argparse.Namespace) -> None:
    """Put a single rank into the scheduler's process, and give several all cores to share.

    The first saves one import of everything. The engine's own way with several is a NUMA node for
    each, and a refusal where there are fewer.
    """
    if args.tensor_parallel_size * args.pipeline_parallel_size > 1:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    elif args.distributed_executor_backend is None:
        args.distributed_executor_backend = "uni"
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def _parser_class() -> type[argparse.ArgumentParser]:
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        """vLLM's parser, which raises where argparse would print its usage and exit."""

        def error(self, message: str) -> NoReturn:
            raise FlagError(message)

    return Parser


def _check_names(args: argparse.Namespace) -> None:
    """Judge three names that vLLM's parser takes as free text, and refuses only much later."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for variable, value, plugin, known in (
        (
            "TOOL_CALL_PARSER",
            args.tool_call_parser,
            args.tool_parser_plugin,
            ToolParserManager.list_registered(),
        ),
        (
            "REASONING_PARSER",
            args.reasoning_parser,
            args.reasoning_parser_plugin,
            ReasoningParserManager.list_registered(),
        ),
        ("QUANTIZATION", args.quantization, None, QUANTIZATION_METHODS),
    ):
        if value and not plugin and value not in known:
            raise BadSetting(f"{variable}={value!r}: choose from {', '.join(sorted(known))}")
