"""The adapter of vLLM: checks its flags, starts its engine and its OpenAI-compatible app.

The names are those of vLLM 0.30 to 0.33; `patches.py` lists the internal ones.
"""

import argparse
import logging
import sys
import time
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from handler.engine import preflight
from handler.engine.capacity import Capacity, max_token_characters
from handler.engine.chat_template import read_chat_template
from handler.engine.flags.aliases import flags_to_variables
from handler.engine.flags.parallelism import Parallelism, check_parallelism
from handler.engine.flags.parser import EngineFlags, parse_engine_flags
from handler.engine.interface import AUTO, Configuration, LoweredSetting, RunningEngine
from handler.engine.pacing import Pacer
from handler.engine.processes import all_running, descendants_named
from handler.engine.request_fields import request_fields, request_validators
from handler.engine.vllm import flags, platform, start_method
from handler.engine.vllm.configuration import read_configuration
from handler.engine.vllm.start_method import StartMethod
from handler.errors import EngineStartFailed, InvalidSetting, ModelUnavailable
from handler.model.attention import default_context_tokens
from handler.model.checkpoint import WEIGHTS, has_config, model_config
from handler.model.resolve import ResolvedModel
from handler.settings.environ import export, given_name, log_level_of
from handler.settings.fields import Settings
from handler.startup.build_jobs import build_jobs_environment
from handler.startup.gpus import Gpu
from handler.startup.timings import StartupStage

log = logging.getLogger(__name__)

LOG_LEVEL = "VLLM_LOGGING_LEVEL"
RANK_PROCESS = "VLLM::Worker"  # process title; a single rank runs in the core's process
TIMED_WORKER = "handler.engine.vllm.timed_worker.TimedWorker"


class VllmAdapter:
    """One vLLM engine; see `interface.EngineAdapter`."""

    name = "vllm"

    def __init__(
        self, settings: Settings, model: ResolvedModel, environ: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._model = model
        self._environ = dict(environ)  # as it was before defaults are exported
        self._args: argparse.Namespace | None = None
        self._lowered: list[LoweredSetting] = []
        self.served_model_name = (*settings.model_names, model.name)[0]

    @property
    def forks(self) -> int:
        """How many forks of this process the engine's start makes; see `EngineAdapter.forks`."""
        args = self._args
        if args is None or self._start_method().name != start_method.FORK:
            return 0
        return start_method.fork_count(args)

    def _start_method(self) -> StartMethod:
        folder = self._model.path
        config = model_config(folder) if has_config(folder) else {}
        return start_method.choose(
            self._checked_args(),
            self._environ,
            is_cpu=platform.is_cpu(),
            architectures=config.get("architectures") or [],
        )

    def _checked_args(self) -> argparse.Namespace:
        if self._args is None:
            raise EngineStartFailed("check_flags() was not called before the start")
        return self._args

    def prepare(self) -> None:
        """Do nothing: off the main thread vLLM installs no signal handler."""

    @staticmethod
    def import_engine(settings: Settings, environ: Mapping[str, str]) -> None:
        """Import vLLM, all of it that the check of the flags needs.

        Raises:
            InvalidSetting: VLLM_LOGGING_LEVEL is no level.
        """
        log_level = _log_level(settings, environ)
        export({}, remove=[LOG_LEVEL])
        export(platform.environment(log_level), remove=platform.REMOVED_VARIABLES)
        if platform.is_quiet(log_level) and not sys.warnoptions:
            warnings.simplefilter("ignore")  # in a fork, which does not read PYTHONWARNINGS
        log.info("importing vLLM %s", platform.version())
        flags.engine_flags()

    def check_flags(self) -> None:
        """Check all settings; see `interface.EngineAdapter.check_flags`."""
        log_level = _log_level(self._settings, self._environ)
        engine_flags = flags.engine_flags()
        gpus = platform.gpus(self._environ)
        args = parse_engine_flags(
            "vllm",
            engine_flags,
            worker_arguments=flags.worker_arguments(
                self._settings, self._model, engine_flags, quiet=platform.is_quiet(log_level)
            ),
            environ=self._environ,
            engine_args=self._settings.engine_args,
            gpu_count=len(gpus),
        )
        self._check_args(args, engine_flags, gpus)
        if args.gpu_memory_utilization == engine_flags.default("GPU_MEMORY_UTILIZATION"):
            # A saved plan does not say for which GPU_MEMORY_UTILIZATION it was made.
            export({platform.STARTUP_PLAN: "1"})
        if platform.is_cpu():
            export(platform.configure_cpu_ranks(args))
        export(build_jobs_environment(_parallelism(args).ranks_on(len(gpus))))
        self._args = args

    def _check_args(
        self, args: argparse.Namespace, engine_flags: EngineFlags, gpus: Sequence[Gpu]
    ) -> None:
        from vllm.exceptions import VLLMError
        from vllm.logger import configure_logging_from_args
        from vllm.platforms import current_platform

        if args.model_tag is not None:
            variable = given_name("engine_args", self._environ)
            raise InvalidSetting(f"{variable}: {args.model_tag!r} is not a flag.")
        if args.chat_template:
            self._check_chat_template(args)
        try:
            flags.cli_args().validate_parsed_serve_args(args)
        except (VLLMError, TypeError, ValueError) as error:
            reason = flags_to_variables(str(error).removeprefix("Error: "))
            raise InvalidSetting(reason) from error
        preflight.enable_lora(args, flags.adapter_rank(self._model, engine_flags))
        flags.import_parser_plugins(args)
        flags.check_names(args)
        check_parallelism(_parallelism(args), self._environ, self._model.path, len(gpus))
        preflight.check_load_format(args.load_format)
        if args.load_format == "auto" and not self._model.has_weights():
            # vLLM notices in a child process, and the reason would only be in its log.
            raise ModelUnavailable(f"{self._model.name} has no weights ({' '.join(WEIGHTS)}).")
        if demand := flags.memory_demand(args, _parallelism(args), self._model):
            fitting = preflight.check_memory(demand, gpus)
            if fitting is not None:
                log.warning(
                    "the KV cache has no room for a request of the model's own context, which vLLM "
                    "shortens to what fits, about %d tokens (MAX_MODEL_LEN=auto)",
                    fitting,
                )
                own = default_context_tokens(model_config(self._model.path)) or 0
                self._lowered.append(LoweredSetting("MAX_MODEL_LEN", own, AUTO))
                args.max_model_len = AUTO
        configure_logging_from_args(args)
        if args.worker_cls == "auto" and current_platform.device_name in ("cpu", "cuda"):
            args.worker_cls = TIMED_WORKER

    def _check_chat_template(self, args: argparse.Namespace) -> None:
        from vllm.exceptions import VLLMError
        from vllm.renderers.chat_utils import validate_chat_template

        setting = "custom_chat_template" if self._settings.custom_chat_template else "engine_args"
        variable = given_name(setting, self._environ)
        text = read_chat_template(variable, args.chat_template)
        if text is not None:
            args.chat_template = text
            return
        try:
            validate_chat_template(args.chat_template)
        except (VLLMError, TypeError, ValueError, OSError) as error:
            raise InvalidSetting(
                f"{variable}={args.chat_template!r} is neither a file nor a template."
            ) from error

    @asynccontextmanager
    async def start(self, pacer: Pacer) -> AsyncIterator[RunningEngine]:
        """Start the engine and its app; see `interface.EngineAdapter.start`."""
        began = time.time()
        from vllm import envs
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
        from vllm.entrypoints.launchers.app import build_app

        from handler.engine.vllm import patches, rank_timeout

        args, is_cpu = self._checked_args(), platform.is_cpu()
        method = self._start_method()
        log.info("starting the engine: %s", method)
        export({}, remove=[start_method.VARIABLE])  # it may be empty
        export({start_method.VARIABLE: method.name})
        forks = method.name == start_method.FORK
        patches.apply(pacer, is_cpu=is_cpu, forks=forks)
        if forks and args.tensor_parallel_size * args.pipeline_parallel_size > 1:
            rank_timeout.leave_out_freezes()
        async with build_async_engine_client(args) as engine:
            up = time.time()
            if not is_cpu:
                method = start_method.as_started(method)
            if is_cpu and args.pipeline_parallel_size > 1:
                await engine.collective_rpc("execute_dummy_batch")
            stages = await _startup_stages(engine, began, method)
            tasks = await engine.get_supported_tasks()
            if "generate" in tasks and (line := output_limit_warning(engine.model_config)):
                log.warning(line)
            app = build_app(args, tasks, engine.model_config)
            await init_app_state(engine, app.state, args, tasks)
            patches.prepare_app(app)
            envs.enable_envs_cache()  # without it each token reads os.environ
            async with app.router.lifespan_context(app):
                ranks_running = all_running(descendants_named(RANK_PROCESS))
                app_stage = StartupStage("app", up, time.time() - up)
                yield RunningEngine(
                    app=app,
                    capacity=_capacity(engine.vllm_config),
                    alive=lambda: ranks_running() and not engine.errored,
                    models=_model_names(app.state.openai_serving_models),
                    generates="generate" in tasks,
                    request_fields=request_fields(app),
                    stages=(*stages, app_stage),
                    validators=request_validators(app),
                    max_token_characters=max_token_characters(engine.get_tokenizer),
                    constrains_tools=args.tool_strict_level != "auto",
                    lowered=tuple(self._lowered),
                )

    def configuration(self) -> Configuration:
        """Return what the last start tried; see `interface.EngineAdapter.configuration`."""
        args = self._checked_args()
        return read_configuration(args, self._environ, _parallelism(args), self._model)


def _log_level(settings: Settings, environ: Mapping[str, str]) -> str:
    return log_level_of(environ, LOG_LEVEL, settings.log_level)


async def _startup_stages(
    engine: Any, began: float, method: StartMethod
) -> tuple[StartupStage, ...]:
    """Return the stages of the slowest rank, and before them those of the core's process.

    With data parallelism one replica answers.
    """
    if engine.vllm_config.parallel_config.worker_cls != TIMED_WORKER:
        return ()
    ranks = await engine.collective_rpc("start_timings")
    slowest = max(ranks, key=lambda timings: timings[-1][1] + timings[-1][2])
    core, *stages = (StartupStage(*timing) for timing in slowest)
    configuration = StartupStage("configuration", began, max(0.0, core.began - began))
    return (configuration, replace(core, name=method.name), *stages)


def _capacity(config: Any) -> Capacity:
    """Return the capacity of all data-parallel engine cores that this worker sends requests to."""
    cache, parallel = config.cache_config, config.parallel_config
    local_only = parallel.local_engines_only
    cores = parallel.data_parallel_size_local if local_only else parallel.data_parallel_size
    max_model_tokens = config.model_config.max_model_len
    max_sequences = config.scheduler_config.max_num_seqs * cores
    # None for a model without a KV cache, such as an encoder: only the batch limits it.
    cache_tokens = cache.kv_cache_size_tokens
    return Capacity(
        max_sequences=max_sequences,
        kv_cache_tokens=max_sequences * max_model_tokens
        if cache_tokens is None
        else cache_tokens * cores,
        max_model_tokens=max_model_tokens,
    )


def output_limit_warning(model_config: Any) -> str | None:
    """Return a warning if a generation config limits the length of responses, else None."""
    limit = model_config.get_diff_sampling_param().get("max_tokens")
    source = model_config.generation_config
    override = model_config.override_generation_config.get("max_new_tokens")
    if override is not None:
        return f"OVERRIDE_GENERATION_CONFIG limits all responses to {override} tokens"
    if limit is None:
        return None
    if source == "auto":
        return (
            "the model's generation_config.json limits responses to requests without max_tokens to "
            f"{limit} tokens: GENERATION_CONFIG=vllm ignores it"
        )
    return f"GENERATION_CONFIG={source} limits all responses to {limit} tokens"


def _model_names(serving: Any) -> tuple[str, ...]:
    return (*(base.name for base in serving.base_model_paths), *serving.lora_requests)


def _parallelism(args: argparse.Namespace) -> Parallelism:
    tensor = args.tensor_parallel_size
    return Parallelism(tensor, tensor * args.pipeline_parallel_size * args.data_parallel_size)
