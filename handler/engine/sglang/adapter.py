"""SGLang inside the worker: everything that knows SGLang's internals.

Its engine is built for a process of its own: started on the main thread it installs handlers that
kill the process at any child's failure, and its own shutdown kills every child there is. Started
on the engine's thread it installs none, and here the end is ours. The names are those of 0.5.23;
`tests/contract/test_sglang.py` pins them.
"""

import importlib.metadata
import json
import logging
import os
import signal
import time
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import psutil

from handler.engine import command_line, parallelism, preflight, speculative
from handler.engine.aliases import with_variables
from handler.engine.capacity import Capacity
from handler.engine.flags import EngineFlags
from handler.engine.interface import RunningEngine
from handler.engine.pacing import Pacer
from handler.engine.parallelism import Parallelism
from handler.engine.processes import all_run
from handler.engine.request_fields import request_fields
from handler.engine.sglang.flags import REMOVED, engine_flags, memory_demand
from handler.engine.sglang.patches import (
    ADAPTER_ROUTES,
    models,
    own_logging,
    ready_app,
    stop,
    temporary_files,
    version,
)
from handler.errors import EngineStartFailed, InvalidSetting, ModelUnavailable, one_line
from handler.model.checkpoint import WEIGHTS
from handler.model.resolve import ResolvedModel
from handler.settings import Settings
from handler.startup.timings import StartupStage

log = logging.getLogger(__name__)

ENVIRONMENT = {"SGLANG_KILLPG_ON_SCHEDULER_EXCEPTION": "0"}
# On CPU: no C++ build at the first request of two ranks (20 s).
CPU_ENVIRONMENT = {"SGLANG_USE_CPU_ENGINE": "1", "TORCH_COMPILE_DISABLE": "1"}
# What runs without a GPU: PyTorch's own attention and sampling, and a small KV cache, whose
# every gigabyte takes seconds to fill with zeros.
CPU_ARGUMENTS = [
    "--device=cpu",
    "--attention-backend=torch_native",
    "--sampling-backend=pytorch",
    "--disable-cuda-graph",
    "--mem-fraction-static=0.3",
    "--max-total-tokens=16384",
    "--max-running-requests=64",
    "--lora-backend=torch_native",
]


class SglangAdapter:
    """One SGLang engine and its OpenAI-compatible app; see `protocol.Adapter`.

    Args:
        settings: the worker's settings.
        model: where the weights are.
        environ: variables that may name flags of SGLang.
    """

    name = "sglang"
    forks = False

    def __init__(
        self, settings: Settings, model: ResolvedModel, environ: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._model = model
        self._environ = dict(environ)
        self._args: Any = None
        self._failed = False
        self.served_model_name = settings.served_model_name or model.name

    def prepare(self) -> None:
        """Take SIGQUIT, which SGLang's processes send when one of them fails.

        Its default is to kill the worker with all its jobs; here the adapter's `alive` sees the
        failure, and the jobs get an answer.
        """
        signal.signal(signal.SIGQUIT, self._noticed)

    def _noticed(self, number: int, _: FrameType | None) -> None:
        self._failed = True
        log.error("%s: a process of the engine has failed", signal.Signals(number).name)

    def check(self) -> None:
        """Import SGLang and let its parser judge every flag; see `protocol.Adapter.check`."""
        self._prepare_environment()
        log.info("importing SGLang %s", version())
        with own_logging():
            from sglang.srt.server_args import ServerArgs

            flags = engine_flags()
            own = self._own_arguments(flags)
            args = ServerArgs.from_cli_args(
                command_line.parse("sglang", flags, own, self._settings, self._environ, REMOVED)
            )
            parallelism.check(_split(args), self._environ, self._model.path)
            preflight.check_load_format(args.load_format)
            if args.load_format == "auto" and not self._model.has_weights():
                raise ModelUnavailable(f"{self._model.name} has no weights ({' '.join(WEIGHTS)}).")
            if demand := memory_demand(args, self._model):
                preflight.check_memory(demand, gpus(self._environ))
            try:
                args.resolve_once()
            except (ValueError, AssertionError, TypeError, NotImplementedError, OSError) as error:
                reason = with_variables(one_line(str(error))) or repr(error)
                raise InvalidSetting(f"The engine refuses its settings: {reason}") from error
        if is_cpu_build():
            _share_cores(args.dp_size * args.tp_size * args.pp_size)
        self._args = args

    @asynccontextmanager
    async def running(self, pacer: Pacer) -> AsyncIterator[RunningEngine]:
        """Load the weights and build the app; see `protocol.Adapter.running`."""
        from sglang.srt.entrypoints import http_server
        from sglang.srt.entrypoints.engine import Engine
        from sglang.srt.managers import tokenizer_manager

        from handler.engine.sglang.patches import paced

        if self._args is None:
            raise EngineStartFailed("check() was not called before the start")
        log.info("starting the engine")
        tokenizer_manager.ReqState = paced(pacer)
        warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")  # each request
        with temporary_files():
            logging.getLogger(Engine.__module__).setLevel(logging.WARNING)  # 600 settings in a line
            began = time.time()
            with own_logging():
                engine = Engine(server_args=self._args)
            ready = time.time()
            try:
                info = engine._scheduler_init_result.scheduler_infos[0]
                manager = engine.tokenizer_manager
                http_server.set_global_state(
                    http_server._GlobalState(
                        tokenizer_manager=manager,
                        template_manager=engine.template_manager,
                        scheduler_info=info,
                    )
                )
                app = ready_app(self._args, self.served_model_name)
                async with app.router.lifespan_context(app):
                    yield RunningEngine(
                        app=app,
                        capacity=await _capacity(info, manager),
                        alive=self._alive(engine),
                        adapter_routes=ADAPTER_ROUTES,
                        models=models(manager),
                        generates=bool(manager.is_generation),
                        request_fields=request_fields(app),
                        listens=False,
                        stages=_stages(info.get("startup_time") or {}, began, ready),
                    )
            finally:
                await stop(engine)

    def _alive(self, engine: Any) -> Callable[[], bool]:
        """Watch for a process that has ended, and for one that hangs: SGLang's watchdog says so."""
        pids = engine.get_all_child_pids()
        running = all_run([psutil.Process(pid) for pid in pids])
        return lambda: not self._failed and running()

    def _prepare_environment(self) -> None:
        """Set what SGLang and its child processes read from the environment."""
        defaults = dict(ENVIRONMENT)
        if is_cpu_build():
            defaults |= CPU_ENVIRONMENT
        if self._model.is_local:
            defaults["HF_HUB_OFFLINE"] = "1"
        if self._log_level().upper() in ("WARNING", "ERROR", "CRITICAL"):
            defaults["PYTHONWARNINGS"] = "ignore"  # in its processes; this one has begun
            warnings.simplefilter("ignore")
        for name, value in defaults.items():
            os.environ.setdefault(name, value)

    def _log_level(self) -> str:
        return self._environ.get("SGLANG_LOGGING_LEVEL") or self._settings.log_level

    def _own_arguments(self, flags: EngineFlags) -> list[str]:
        """Spell the worker's own settings as flags of SGLang."""
        settings = self._settings
        arguments = [
            *(CPU_ARGUMENTS if is_cpu_build() else []),
            f"--model-path={self._model.path}",
            f"--served-model-name={self.served_model_name}",
            f"--log-level={self._log_level().lower()}",
            "--skip-server-warmup",
            "--sleep-on-idle",  # else a scheduler with nothing to do takes a whole core
            "--enable-metrics",
            "--enable-cache-report",
        ]
        if settings.custom_chat_template:
            arguments += flags.argument(
                "CHAT_TEMPLATE", settings.custom_chat_template, "CUSTOM_CHAT_TEMPLATE"
            )
        if settings.quantization not in ("auto", "none") and not self._model.quantization:
            arguments += flags.argument("QUANTIZATION", settings.quantization)
        drafting = speculative.sglang_flags(
            settings.speculative_method,
            settings.num_speculative_tokens,
            self._model.draft,
            settings.speculative_config,
        )
        variable = "SPECULATIVE_CONFIG" if settings.speculative_config else "SPECULATIVE_METHOD"
        for name, value in drafting.items():
            if name not in flags.names:
                raise InvalidSetting(f"{variable}: SGLang has no flag {name}.")
            arguments += flags.argument(name, value, variable)
        if self._model.adapters:
            arguments += ["--enable-lora", "--lora-paths"]
            arguments += [
                json.dumps({"lora_name": adapter.name, "lora_path": str(adapter.path)})
                for adapter in self._model.adapters
            ]
        if self._model.tokenizer:
            arguments.append(f"--tokenizer-path={self._model.tokenizer}")
        return arguments


def is_cpu_build() -> bool:
    """Whether there is a CPU build of torch below it."""
    return importlib.metadata.version("torch").endswith("+cpu")


def _share_cores(ranks: int) -> None:
    """Give each rank as many threads as OMP_NUM_THREADS says, or all cores.

    The engine's own way is a thread on each core whatever that says, and a refusal where there
    are fewer NUMA nodes than ranks.
    """
    cores = sorted(os.sched_getaffinity(0))
    threads = os.environ.get("OMP_NUM_THREADS", "")
    mine = cores[-max(1, int(threads)) :] if ranks == 1 and threads.isdecimal() else cores
    chosen = ",".join(str(core) for core in mine)
    os.environ.setdefault("SGLANG_CPU_OMP_THREADS_BIND", "|".join([chosen] * ranks))


def _stages(measured: Mapping[str, Any], began: float, ready: float) -> tuple[StartupStage, ...]:
    """Return what the slowest scheduler has measured of its start.

    It says how long, not when: its steps are taken as one after the other, up to the end.
    """
    steps = {
        "weights": measured.get("load_weight"),
        "KV cache": measured.get("kv_cache_allocation"),
        "graphs": sum(measured.get("cuda_graph", {}).values()),
    }
    known = {name: float(seconds) for name, seconds in steps.items() if seconds}
    at = max(began, ready - sum(known.values()))
    stages = [StartupStage("engine's processes", began, at - began)]
    for name, seconds in known.items():
        stages.append(StartupStage(name, at, seconds))
        at += seconds
    return tuple(stages)


async def _capacity(info: Mapping[str, Any], manager: Any) -> Capacity:
    [state, *_] = await manager.get_internal_state()
    return Capacity(
        max_sequences=int(state["effective_max_running_requests_per_dp"]),
        kv_cache_tokens=int(info["max_total_num_tokens"]),
        max_model_tokens=int(manager.context_len),
    )


def gpus(environ: Mapping[str, str]) -> list[str]:
    """Return the GPUs that it runs on."""
    return [] if is_cpu_build() else parallelism.visible_gpus(environ)


def _split(args: Any) -> Parallelism:
    groups = args.dp_size if args.enable_dp_attention else 1
    ranks = args.tp_size * args.pp_size * args.dp_size // groups
    return Parallelism(args.tp_size, ranks, groups)
