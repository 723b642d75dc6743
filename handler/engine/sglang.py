"""SGLang inside the worker: everything that knows SGLang's internals.

Its engine is built for a process of its own: started on the main thread it installs handlers that
kill the process at any child's failure, and its own shutdown kills every child there is. Started
on the engine's thread it installs none, and here the end is ours. The names are those of 0.5.23;
`tests/contract/test_sglang.py` pins them.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import signal
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any, NoReturn

import psutil
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from handler.checkpoint import WEIGHTS
from handler.engine import shared, speculation
from handler.engine.fields import request_fields
from handler.engine.flags import EngineFlags, FlagError, unused
from handler.engine.parallel import with_tensor_parallel_size
from handler.engine.processes import all_run
from handler.engine.protocol import Capacity, Running
from handler.errors import BadSetting, EngineStartFailed, ModelUnavailable, one_line
from handler.model import Model
from handler.settings import Settings, variables

log = logging.getLogger(__name__)

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
GONE_SECONDS = 5.0
# The others would answer with the model itself.
ADAPTER_ROUTES = frozenset(
    ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/embeddings")
)


class SglangAdapter:
    """One SGLang engine and its OpenAI-compatible app; see `protocol.Adapter`.

    Args:
        settings: the worker's settings.
        model: where the weights are.
        environ: variables that may name flags of SGLang.
    """

    name = "sglang"

    def __init__(self, settings: Settings, model: Model, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._model = model
        self._environ = environ
        self._args: Any = None
        self._failed = False
        self.served_model_name = settings.served_model_name or model.name

    @staticmethod
    def flags() -> EngineFlags:
        """Return the flags that SGLang's own parser knows, without those of its servers."""
        from sglang.srt.server_args import ServerArgs

        parser = _Parser(allow_abbrev=False)
        ServerArgs.add_cli_args(parser)
        for action in parser._actions:
            action.required = False  # each flag is judged alone before all are parsed
        return EngineFlags(parser, REFUSED)

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
        with _own_logging():
            from sglang.srt.server_args import ServerArgs

            flags = self.flags()
            own = frozenset(name for names in variables().values() for name in names)
            known = own | flags.names | shared.NAMES
            shared.refuse_foreign("sglang", self._environ, known | REMOVED.keys())
            for line in unused(self._environ, known, REMOVED):
                log.warning(line)
            environ = with_tensor_parallel_size(self._environ, self._model.path)
            arguments = [
                *self._own_arguments(flags),
                *shared.arguments(flags, "sglang", environ),
                *flags.from_environ(environ, own | shared.NAMES),
                *flags.from_text(self._settings.engine_args),
            ]
            args = ServerArgs.from_cli_args(flags.parse(arguments))
            if args.load_format == "auto" and not self._model.has_weights():
                raise ModelUnavailable(f"{self._model.name} has no weights ({' '.join(WEIGHTS)}).")
            try:
                args.resolve_once()
            except (ValueError, AssertionError, TypeError, NotImplementedError, OSError) as error:
                reason = one_line(str(error)) or repr(error)
                raise BadSetting(f"The engine refuses its settings: {reason}") from error
        if is_cpu_build():
            _share_cores(args.dp_size * args.tp_size * args.pp_size)
        self._args = args

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Running]:
        """Load the weights and build the app; see `protocol.Adapter.running`."""
        from sglang.srt.entrypoints import http_server
        from sglang.srt.entrypoints.engine import Engine

        if self._args is None:
            raise EngineStartFailed("check() was not called before the start")
        log.info("starting the engine")
        warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")  # each request
        with _temporary_files():
            logging.getLogger(Engine.__module__).setLevel(logging.WARNING)  # 600 settings in a line
            with _own_logging():
                engine = Engine(server_args=self._args)
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
                app = _app(http_server, self._args, self.served_model_name)
                async with app.router.lifespan_context(app):
                    yield Running(
                        app=app,
                        capacity=await _capacity(info, manager),
                        alive=self._alive(engine),
                        adapter_routes=ADAPTER_ROUTES,
                        models=_models(manager),
                        generates=bool(manager.is_generation),
                        request_fields=request_fields(app),
                        listens=False,
                    )
            finally:
                await _stop(engine)

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
            "--enable-metrics",
            "--enable-cache-report",
        ]
        if settings.custom_chat_template:
            arguments += flags.argument(
                "CHAT_TEMPLATE", settings.custom_chat_template, "CUSTOM_CHAT_TEMPLATE"
            )
        if settings.quantization not in ("auto", "none") and not self._model.quantization:
            arguments += flags.argument("QUANTIZATION", settings.quantization)
        speculative = speculation.sglang_flags(
            settings.speculative_method,
            settings.num_speculative_tokens,
            self._model.draft,
            settings.speculative_config,
        )
        for name, value in speculative.items():
            if name not in flags.names:
                raise BadSetting(f"SPECULATIVE_CONFIG: SGLang has no flag {name}.")
            arguments += flags.argument(name, value, "SPECULATIVE_CONFIG")
        if self._model.adapters:
            arguments += ["--enable-lora", "--lora-paths"]
            arguments += [
                json.dumps({"lora_name": adapter.name, "lora_path": str(adapter.path)})
                for adapter in self._model.adapters
            ]
        if self._model.tokenizer:
            arguments.append(f"--tokenizer-path={self._model.tokenizer}")
        return arguments


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise FlagError(message)


def version() -> str:
    """Return the engine's version."""
    return importlib.metadata.version("sglang")


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


def _models(manager: Any) -> dict[str, str]:
    """SGLang takes an adapter by the model's name and its own, and any name for the model."""
    name = str(manager.served_model_name)
    adapters = manager.lora_registry.get_all_adapters() if manager.enable_lora else {}
    names = [str(adapter.lora_name) for adapter in adapters.values()]
    return {name: name} | {adapter: f"{name}:{adapter}" for adapter in names}


def _app(http_server: Any, args: Any, name: str) -> Any:
    """Make SGLang's app ready for its lifespan, as its own launcher does."""
    from sglang.srt.entrypoints.openai import serving_embedding
    from sglang.srt.managers import tokenizer_manager

    app = http_server.app
    app.is_single_tokenizer_mode = True
    app.server_args = args
    app.warmup_thread_kwargs = {
        "server_args": args,
        "launch_callback": None,
        "execute_warmup_func": lambda _: True,
    }
    # /v1/models shows an adapter's path as `root`: a path of this machine.
    card = http_server.ModelCard
    http_server.ModelCard = lambda **fields: card(**fields | {"root": fields["id"]})
    # So does an answer with embeddings.
    response = serving_embedding.EmbeddingResponse
    serving_embedding.EmbeddingResponse = lambda **fields: response(**fields | {"model": name})
    # An exception in its loop would kill this process, and with it the jobs' error.
    tokenizer_manager.kill_process_tree = lambda *_, **__: None
    # Its own tells callers the file and line of its code.
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_api_route("/version", lambda: {"version": version()})
    # It would post to the HTTP server that does not run here.
    http_server._freeze_gc_after_server_warmup = lambda _: None
    return app


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Answer a body that SGLang's models refuse, with the field at fault."""
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    named = [
        (".".join(str(part) for part in problem["loc"][1:]), problem["msg"]) for problem in problems
    ]
    said = "; ".join(dict.fromkeys(f"{where}: {why}" if where else why for where, why in named[:3]))
    more = f" (and {len(named) - 3} more)" if len(named) > 3 else ""
    failure = {
        "message": f"{said}{more}",
        "type": "BadRequestError",
        "param": named[0][0].split(".")[0] if named else None,
        "code": 400,
    }
    return JSONResponse({"error": failure}, 400)


async def _capacity(info: Mapping[str, Any], manager: Any) -> Capacity:
    [state, *_] = await manager.get_internal_state()
    return Capacity(
        max_sequences=int(state["effective_max_running_requests_per_dp"]),
        kv_cache_tokens=int(info["max_total_num_tokens"]),
        max_model_tokens=int(manager.context_len),
    )


async def _stop(engine: Any) -> None:
    """End the engine's processes and none of the worker's others, which its `shutdown` would."""
    manager = engine.tokenizer_manager
    if manager is not None:
        if manager._subprocess_watchdog is not None:
            manager._subprocess_watchdog._stop_event.set()
        tasks = list(manager.asyncio_tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    result = getattr(engine, "_scheduler_init_result", None)
    left = []
    for pid in result.all_child_pids if result else []:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            left += [process, *process.children(recursive=True)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=GONE_SECONDS)


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Keep the worker's log as it is: SGLang's set-up replaces the handlers of everybody."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def _temporary_files() -> Iterator[None]:
    """Give SGLang's sockets and metrics files a folder that goes with it."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="sglang-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
