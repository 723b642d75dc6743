"""The adapter of SGLang: checks its flags, starts its engine and its OpenAI-compatible app.

SGLang expects a process of its own: on the main thread it installs handlers that kill the process
when a child fails, and its shutdown kills all child processes. On the engine's thread it installs
no handler, and `patches.stop` replaces its shutdown. The names are those of 0.5.23; `patches.py`
lists the internal ones.
"""

import asyncio
import importlib
import logging
import os
import signal
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import psutil

from handler.engine import preflight
from handler.engine.awake_clock import awake_clock
from handler.engine.capacity import Capacity, max_token_characters
from handler.engine.chat_template import read_chat_template
from handler.engine.failed_start.report import HOST_WORDS
from handler.engine.flags.aliases import flags_to_variables
from handler.engine.flags.parallelism import Parallelism, check_parallelism
from handler.engine.flags.parser import parse_engine_flags
from handler.engine.interface import Configuration, RunningEngine
from handler.engine.pacing import Pacer
from handler.engine.processes import all_running
from handler.engine.request_fields import request_fields, request_validators
from handler.engine.sglang import flags, patches, platform
from handler.engine.sglang.configuration import read_configuration
from handler.errors import EngineStartFailed, InvalidSetting, ModelUnavailable, is_lasting, one_line
from handler.model import harmony
from handler.model.checkpoint import WEIGHTS
from handler.model.resolve import ResolvedModel
from handler.settings.environ import export, given_name, log_level_of
from handler.settings.fields import Settings
from handler.startup.build_jobs import build_jobs_environment
from handler.startup.gpus import Gpu
from handler.startup.timings import StartupStage

log = logging.getLogger(__name__)

T = TypeVar("T")

LOG_LEVEL = "SGLANG_LOGGING_LEVEL"
ALIVE_INTERVAL_SECONDS = 0.5
MIN_FALSE_ALARM_SECONDS = 60.0  # SGLang collects stacks, then waits 5 s before the signal

# On other routes SGLang answers with the model itself when a LoRA adapter is chosen.
ADAPTER_ROUTES = frozenset(
    ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/embeddings", "/generate")
)
# Fields that the request model reads without declaring them.
MORE_FIELDS = {"/v1/chat/completions": ("reasoning",)}


class SglangAdapter:
    """One SGLang engine; see `interface.EngineAdapter`."""

    name = "sglang"
    forks = 0

    def __init__(
        self, settings: Settings, model: ResolvedModel, environ: Mapping[str, str]
    ) -> None:
        self._settings = settings
        self._model = model
        self._environ = dict(environ)
        self._args: Any = None
        self._gpus: list[Gpu] = []
        self._chat_template: str | None = None
        self._chat_template_path = Path(tempfile.gettempdir(), f"chat-{os.getpid()}.jinja")
        self._failed = False
        self.served_model_name = (*settings.model_names, model.name)[0]

    def prepare(self) -> None:
        """Handle SIGQUIT, which SGLang's processes send when one of them fails.

        Its default would kill the worker with all its jobs. Here `alive` reports the failure, and
        the jobs get an error.
        """
        signal.signal(signal.SIGQUIT, self._on_sigquit)

    def _on_sigquit(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if awake_clock.seconds_since_freeze < self._false_alarm_seconds():
            log.warning("%s after a freeze: SGLang's watchdog has counted it", name)
            return
        self._failed = True
        log.error("%s: a process of the engine has failed", name)

    def _false_alarm_seconds(self) -> float:
        """Return for how long after a freeze a signal may be the watchdog's false alarm.

        The watchdog of a scheduler counts the frozen time for the step that was under way. Where a
        step does hang, it sends the signal again; where the process has ended, `alive` says so.
        """
        timeout = getattr(self._args, "watchdog_timeout", None) or 0.0
        return max(timeout, MIN_FALSE_ALARM_SECONDS)

    @staticmethod
    def import_engine(settings: Settings, environ: Mapping[str, str]) -> None:
        """Import SGLang, with what its start needs.

        Raises:
            InvalidSetting: SGLANG_LOGGING_LEVEL is no level.
        """
        log_level = _log_level(settings, environ)
        export(platform.environment(log_level))
        if platform.is_quiet(log_level):
            warnings.simplefilter("ignore")  # this process does not read PYTHONWARNINGS any more
        log.info("importing SGLang %s", platform.version())
        with patches.own_logging():
            importlib.import_module("sglang.srt.entrypoints.http_server")

    def check_flags(self) -> None:
        """Check all settings; see `interface.EngineAdapter.check_flags`."""
        platform.check_quantization(
            self._model.quantization, self._model.name, is_cpu=platform.is_cpu()
        )
        self._provide_harmony_vocabulary()
        log_level = _log_level(self._settings, self._environ)
        with patches.own_logging():
            self._gpus = gpus = platform.gpus(self._environ)
            self._args = self._parse_args(log_level, len(gpus))
            parallelism = _parallelism(self._args)
            self._check_args(gpus, parallelism)
        if platform.is_cpu():
            cores = sorted(os.sched_getaffinity(0))
            threads = self._environ.get("OMP_NUM_THREADS", "")
            export(platform.thread_binding(parallelism.ranks, cores, threads))
        export(build_jobs_environment(parallelism.ranks_on(len(gpus))))

    def _provide_harmony_vocabulary(self) -> None:
        if self._environ.get(harmony.VARIABLE) or not harmony.uses_harmony(self._model.path):
            return
        cache = self._settings.cache_root.expanduser() / "harmony"
        export(harmony.write_vocabulary(self._model.tokenizer or self._model.path, cache))

    def _parse_args(self, log_level: str, gpu_count: int) -> Any:
        from sglang.srt.server_args import ServerArgs

        engine_flags = flags.engine_flags()
        return ServerArgs.from_cli_args(
            parse_engine_flags(
                "sglang",
                engine_flags,
                worker_arguments=flags.worker_arguments(
                    self._settings, self._model, engine_flags, log_level
                ),
                environ=self._environ,
                engine_args=self._settings.engine_args,
                gpu_count=gpu_count,
            )
        )

    def _check_args(self, gpus: Sequence[Gpu], parallelism: Parallelism) -> None:
        args = self._args
        check_parallelism(parallelism, self._environ, self._model.path, len(gpus))
        if args.chat_template:
            self._check_chat_template()
        preflight.enable_lora(args, max((each.rank for each in self._model.adapters), default=0))
        preflight.check_load_format(args.load_format)
        if args.load_format == "auto" and not self._model.has_weights():
            raise ModelUnavailable(f"{self._model.name} has no weights ({' '.join(WEIGHTS)}).")
        if demand := flags.memory_demand(args, self._model):
            preflight.check_memory(demand, gpus)
        try:
            args.resolve_once()
        except (ValueError, AssertionError, TypeError, NotImplementedError, OSError) as error:
            reason = flags_to_variables(one_line(str(error))) or repr(error)
            raise InvalidSetting(
                f"The engine refuses its settings: {reason}",
                lasting=is_lasting(error) and not HOST_WORDS.search(reason),
            ) from error

    def _check_chat_template(self) -> None:
        """Check the template; SGLang takes a path, so a text is written to a file for the start."""
        from sglang.srt.parser.conversation import chat_template_exists
        from sglang.srt.parser.python_chat_template import get_python_chat_template

        value = self._args.chat_template
        setting = "custom_chat_template" if self._settings.custom_chat_template else "engine_args"
        variable = given_name(setting, self._environ)
        if value.endswith(".json") and Path(value).is_file():
            return  # SGLang's own format of conversations
        self._chat_template = read_chat_template(variable, value)
        if self._chat_template is not None:
            self._args.chat_template = str(self._chat_template_path)
        elif not chat_template_exists(value) and get_python_chat_template(value) is None:
            raise InvalidSetting(f"{variable}={value!r} is neither a file nor a template.")

    @asynccontextmanager
    async def start(self, pacer: Pacer) -> AsyncIterator[RunningEngine]:
        """Start the engine and its app; see `interface.EngineAdapter.start`."""
        from sglang.srt.entrypoints.engine import Engine

        if self._args is None:
            raise EngineStartFailed("check_flags() was not called before the start")
        log.info("starting the engine")
        patches.apply(pacer, self.served_model_name, self._settings.model_names[1:])
        warnings.filterwarnings(
            "ignore", message="ORJSONResponse is deprecated"
        )  # logged for each request
        with patches.temporary_files():
            # At INFO it logs a line with all its 600 settings.
            logging.getLogger(Engine.__module__).setLevel(logging.WARNING)
            began = time.time()
            with patches.own_logging(), self._chat_template_file():
                engine = Engine(server_args=self._args)
            ready = time.time()
            try:
                info, alive = patches.scheduler_info(engine), self._alive(engine)
                app = patches.prepared_app(engine, self._args)
                manager = engine.tokenizer_manager
                async with app.router.lifespan_context(app):
                    yield RunningEngine(
                        app=app,
                        capacity=await _while_alive(_capacity(info, manager), alive),
                        alive=alive,
                        adapter_routes=ADAPTER_ROUTES,
                        models=patches.model_names(manager),
                        generates=bool(manager.is_generation),
                        request_fields=request_fields(
                            app, without=_unread_fields(engine), also=MORE_FIELDS
                        ),
                        aborts_on_disconnect=False,
                        stages=_startup_stages(info.get("startup_time") or {}, began, ready),
                        validators=request_validators(app),
                        max_token_characters=max_token_characters(lambda: manager.tokenizer),
                        constrains_tools=patches.constrains_tools(),
                    )
            finally:
                await patches.stop(engine)

    def configuration(self) -> Configuration | None:
        """Return what the start has tried; see `interface.EngineAdapter.configuration`."""
        if platform.is_cpu():
            return None
        return read_configuration(self._args, self._gpus, _parallelism(self._args), self._model)

    @contextmanager
    def _chat_template_file(self) -> Iterator[None]:
        if self._chat_template is None:
            yield
            return
        self._chat_template_path.write_text(self._chat_template, encoding="utf-8")
        try:
            yield
        finally:
            self._chat_template_path.unlink()

    def _alive(self, engine: Any) -> Callable[[], bool]:
        """Return a check that all processes run; SGLang's watchdog sends SIGQUIT if one hangs."""
        pids = engine.get_all_child_pids()
        running = all_running([psutil.Process(pid) for pid in pids])
        return lambda: not self._failed and running()


def _log_level(settings: Settings, environ: Mapping[str, str]) -> str:
    return log_level_of(environ, LOG_LEVEL, settings.log_level)


def _unread_fields(engine: Any) -> dict[str, tuple[str, ...]]:
    """Return, by path, the fields that SGLang accepts and ignores."""
    takes_suffix = engine.template_manager.completion_template_name is not None
    return {"/v1/completions": ("best_of",) if takes_suffix else ("best_of", "suffix")}


def _startup_stages(
    measured: Mapping[str, Any], began: float, ready: float
) -> tuple[StartupStage, ...]:
    """Return the stages that the slowest scheduler has measured.

    It reports durations only: the stages are taken as consecutive, up to the end of the start.
    """
    seconds_of = {
        "weights": measured.get("load_weight"),
        "KV cache": measured.get("kv_cache_allocation"),
        "graphs": sum(measured.get("cuda_graph", {}).values()),
    }
    known = {name: float(seconds) for name, seconds in seconds_of.items() if seconds}
    at = max(began, ready - sum(known.values()))
    stages = [StartupStage("engine's processes", began, at - began)]
    for name, seconds in known.items():
        stages.append(StartupStage(name, at, seconds))
        at += seconds
    return tuple(stages)


async def _while_alive(answer: Coroutine[Any, Any, T], alive: Callable[[], bool]) -> T:
    """Return an answer of the schedulers, for which SGLang waits even if they have ended.

    Raises:
        EngineStartFailed: a process of the engine ended before the answer.
    """
    task = asyncio.create_task(answer)
    while not (await asyncio.wait([task], timeout=ALIVE_INTERVAL_SECONDS))[0]:
        if not alive():
            task.cancel()
            raise EngineStartFailed("A process of the engine ended during the start.")
    return task.result()


async def _capacity(info: Mapping[str, Any], manager: Any) -> Capacity:
    """Return the capacity of all data-parallel schedulers; each has a KV cache of its own."""
    states = await manager.get_internal_state()
    return Capacity(
        max_sequences=sum(state["effective_max_running_requests_per_dp"] for state in states),
        kv_cache_tokens=int(info["max_total_num_tokens"]) * len(states),
        max_model_tokens=int(manager.context_len),
    )


def _parallelism(args: Any) -> Parallelism:
    """Return the parallelism from flags that SGLang has not resolved yet.

    With the old ENABLE_DP_ATTENTION alone, DP_SIZE counts attention groups, not replicas; SGLang
    drops that flag at the end of 2026.
    """
    replicas, groups = args.dp_size, args.attn_dp_size
    if getattr(args, "enable_dp_attention", False) and groups == 1:
        replicas, groups = 1, replicas
    ranks = args.tp_size * args.pp_size * replicas
    return Parallelism(args.tp_size, ranks, groups * args.attn_cp_size)
