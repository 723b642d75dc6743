"""vLLM inside the worker: everything that knows vLLM's internals.

The surface is small, for it moves between releases: the argument parser, the engine client,
`build_app` and `init_app_state`. The names are those of vLLM 0.30 to 0.33;
`tests/contract/test_vllm.py` pins them.
"""

import argparse
import json
import logging
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from handler.engine import command_line, parallelism, preflight, speculative
from handler.engine.aliases import with_variables
from handler.engine.capacity import Capacity
from handler.engine.flags import EngineFlags
from handler.engine.interface import RunningEngine
from handler.engine.pacing import Pacer
from handler.engine.parallelism import Parallelism
from handler.engine.processes import all_run, descendants_named
from handler.engine.request_fields import request_fields
from handler.engine.vllm import platform
from handler.engine.vllm.flags import (
    REMOVED,
    check_names,
    cli_args,
    engine_flags,
    import_plugins,
    memory_demand,
)
from handler.errors import EngineStartFailed, InvalidSetting, ModelUnavailable
from handler.model.checkpoint import WEIGHTS
from handler.model.resolve import ResolvedModel
from handler.settings import Settings
from handler.startup.timings import StartupStage

log = logging.getLogger(__name__)

RANK = "VLLM::Worker"  # with one rank there is none: its work is done in the core's process
TIMED_RANK = "handler.engine.vllm.timed_worker.TimedWorker"

LORAS_PER_BATCH = 8  # each takes memory for its matrices; more adapters take turns


class VllmAdapter:
    """One vLLM engine and its OpenAI-compatible app; see `protocol.Adapter`.

    Args:
        settings: the worker's settings.
        model: where the weights are.
        environ: variables that may name flags of vLLM.
    """

    name = "vllm"

    def __init__(
        self, settings: Settings, model: ResolvedModel, environ: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._model = model
        self._environ = dict(environ)  # as it was before `check` sets defaults in it
        self._args: argparse.Namespace | None = None
        self.served_model_name = settings.served_model_name or model.name

    @property
    def forks(self) -> bool:
        """Whether the core is a fork, which saves a second import of everything.

        On a CPU, where vLLM itself would spawn it, with one rank; on a GPU where the user says so.
        """
        chosen = self._environ.get(platform.START_METHOD)
        if chosen is not None or self._args is None or not platform.is_cpu():
            return chosen == "fork"
        backend, copies = self._args.distributed_executor_backend, self._args.data_parallel_size
        return bool(backend == "uni" and copies == 1)

    def prepare(self) -> None:
        """Nothing: off the main thread vLLM installs no handler, and sends no signal."""

    def check(self) -> None:
        """Import vLLM and let its parser judge every flag; see `protocol.Adapter.check`."""
        platform.prepare_environment(self._settings, self._model, self._environ)
        log.info("importing vLLM %s", platform.version())
        from vllm.exceptions import VLLMError
        from vllm.logger import configure_logging_from_args
        from vllm.platforms import current_platform
        from vllm.renderers.chat_utils import validate_chat_template

        flags = engine_flags()
        own = self._own_arguments(flags)
        args = command_line.parse("vllm", flags, own, self._settings, self._environ, REMOVED)
        if args.model_tag is not None:
            raise InvalidSetting(f"ENGINE_ARGS: {args.model_tag!r} is no flag; give flags only.")
        try:
            validate_chat_template(args.chat_template)
        except (VLLMError, TypeError, ValueError, OSError) as error:
            template = self._settings.custom_chat_template
            raise InvalidSetting(
                f"CUSTOM_CHAT_TEMPLATE={template!r} is neither a file nor a template."
            ) from error
        try:
            cli_args().validate_parsed_serve_args(args)
        except (VLLMError, TypeError, ValueError) as error:
            reason = with_variables(str(error).removeprefix("Error: "))
            raise InvalidSetting(reason) from error
        import_plugins(args)
        check_names(args)
        parallelism.check(_split(args), self._environ, self._model.path)
        preflight.check_load_format(args.load_format)
        if args.load_format == "auto" and not self._model.has_weights():
            # The engine finds out in a child process, whose log alone would say so.
            raise ModelUnavailable(f"{self._model.name} has no weights ({' '.join(WEIGHTS)}).")
        if demand := memory_demand(args, _split(args), self._model):
            preflight.check_memory(demand, platform.gpus(self._environ))
        configure_logging_from_args(args)
        if args.gpu_memory_utilization == flags.default("GPU_MEMORY_UTILIZATION"):
            os.environ.setdefault(platform.PLAN, "1")  # it does not say for which share it was made
        if args.worker_cls == "auto" and current_platform.device_name in ("cpu", "cuda"):
            args.worker_cls = TIMED_RANK
        if platform.is_cpu():
            platform.place_on_cpu(args)
        self._args = args

    @asynccontextmanager
    async def running(self, pacer: Pacer) -> AsyncIterator[RunningEngine]:
        """Load the weights and build the app; see `protocol.Adapter.running`."""
        from vllm import envs
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
        from vllm.entrypoints.launchers.app import build_app
        from vllm.model_executor.models import registry
        from vllm.v1.engine import utils

        from handler.engine.vllm import patches

        args = self._args
        if args is None:
            raise EngineStartFailed("check() was not called before the start")
        log.info("starting the engine")
        patches.install(pacer)
        if self.forks and platform.is_cpu():  # elsewhere vLLM itself knows when it must not
            utils.get_mp_context = lambda: multiprocessing.get_context("fork")
        if platform.is_cpu():  # elsewhere the class could take the GPU for this process
            registry._run_in_subprocess = lambda inspect: inspect()
        began = time.time()
        async with build_async_engine_client(args) as engine:
            if platform.is_cpu() and args.pipeline_parallel_size > 1:
                # The later stages take their input into tensors that the engine makes in its first
                # dry run, which it leaves out on a CPU where nothing is compiled.
                await engine.collective_rpc("execute_dummy_batch")
            stages = await _stages(engine, began)
            tasks = await engine.get_supported_tasks()
            app = build_app(args, tasks, engine.model_config)
            await init_app_state(engine, app.state, args, tasks)
            # vLLM's error handlers tell its own server to end when the engine is dead; here it is
            # `EngineHost` that sees to that.
            app.state.server = SimpleNamespace(should_exit=False)
            _hide_paths(app.state.openai_serving_models)
            envs.enable_envs_cache()  # else each token asks the environment
            async with app.router.lifespan_context(app):
                config: Any = engine.vllm_config
                cache = config.cache_config
                ranks_run = all_run(descendants_named(RANK))
                yield RunningEngine(
                    app=app,
                    capacity=Capacity(
                        max_sequences=config.scheduler_config.max_num_seqs,
                        kv_cache_tokens=(cache.num_gpu_blocks or 0) * cache.block_size,
                        max_model_tokens=config.model_config.max_model_len,
                    ),
                    alive=lambda: ranks_run() and not engine.errored,
                    models=_models(app.state.openai_serving_models),
                    generates="generate" in tasks,
                    request_fields=request_fields(app),
                    stages=stages,
                )

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
        if settings.allowed_media_domains:
            arguments += flags.argument("ALLOWED_MEDIA_DOMAINS", settings.allowed_media_domains)
        if settings.quantization not in ("auto", "none") and not self._model.quantization:
            # Only an unquantized checkpoint is quantized on the way in: naming the method of a
            # pre-quantized one would turn the Marlin kernels off.
            arguments += flags.argument("QUANTIZATION", settings.quantization)
        if platform.is_quiet(self._settings, self._environ):
            arguments.append("--no-use-tqdm-on-load")
        if settings.log_format == "json":
            arguments.append("--logging-config.formatter=json")
        drafting = speculative.vllm_config(
            settings.speculative_method,
            settings.num_speculative_tokens,
            self._model.draft,
            settings.speculative_config,
        )
        if drafting:
            arguments += flags.argument("SPECULATIVE_CONFIG", drafting)
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
            raise InvalidSetting(f"LORA_MODULES: rank {rank} is above vLLM's largest, {ranks[-1]}.")
        modules = [json.dumps({"name": a.name, "path": str(a.path)}) for a in adapters]
        return [
            "--enable-lora",
            f"--max-lora-rank={fitting}",
            f"--max-loras={min(len(adapters), LORAS_PER_BATCH)}",
            "--lora-modules",
            *modules,
        ]


async def _stages(engine: Any, began: float) -> tuple[StartupStage, ...]:
    """Return the stages of the slowest rank, and what passed before its first.

    With data parallelism one replica answers.
    """
    if engine.vllm_config.parallel_config.worker_cls != TIMED_RANK:
        return ()
    ranks = await engine.collective_rpc("start_timings")
    slowest = max(ranks, key=lambda timings: timings[-1][1] + timings[-1][2])
    stages = tuple(StartupStage(*timing) for timing in slowest)
    return (StartupStage("engine's processes", began, stages[0].began - began), *stages)


def _models(serving: Any) -> tuple[str, ...]:
    return (*(base.name for base in serving.base_model_paths), *serving.lora_requests)


def _hide_paths(serving: Any) -> None:
    """Have /v1/models say names where it would show this machine's paths, as `root`."""
    show = serving.show_available_models

    async def shown() -> Any:
        listed = await show()
        for card in listed.data:
            card.root = card.id
        return listed

    serving.show_available_models = shown


def _split(args: argparse.Namespace) -> Parallelism:
    tensor = args.tensor_parallel_size
    return Parallelism(tensor, tensor * args.pipeline_parallel_size * args.data_parallel_size)
