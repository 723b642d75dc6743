"""What the worker uses of vLLM, name by name: after an upgrade a failing test says what moved.

    .venv/bin/python -m pytest tests/contract/test_vllm.py

The tests whose names begin with `test_running` need one start of the engine; `-k "not running"`
leaves them out.
"""

import argparse
import asyncio
import contextlib
import inspect
import json
import re
import sys
import time
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import get_args

import pytest

from handler.engine.awake_clock import AwakeClock
from handler.engine.flag_names import flag_names
from handler.engine.flags import speculative
from handler.engine.flags.aliases import (
    ALIASES,
    FLAG_NAMES,
    REASONING_PARSERS,
    TOOL_CALL_PARSERS,
)
from handler.engine.flags.removed_names import BOTH_ENGINES, REMOVED
from handler.engine.vllm import error_log, rank_timeout, start_method
from handler.engine.vllm.adapter import RANK_PROCESS
from handler.engine.vllm.core_process import RANK_NAME
from handler.engine.vllm.flags import REFUSED, cli_args, engine_flags
from handler.engine.vllm.platform import (
    CPU_ENVIRONMENT,
    CPU_KV_CACHE_ENVIRONMENT,
    ENVIRONMENT,
    REMOVED_VARIABLES,
    STARTUP_PLAN,
)
from handler.engine.vllm.start_method import StartMethod
from handler.model.quantization import method_matches
from handler.request.parse import RequestParser
from handler.settings.types import SpeculativeMethod
from tests.contract import live
from tests.contract.routes import is_decided
from tests.support.client_bodies import CHAT, CLIENT_BODIES, COMPLETIONS, MESSAGES, RESPONSES
from tests.support.engine_fields import ENGINE_FIELDS

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported


@pytest.fixture(scope="module")
def flags():
    """The flags of vLLM's parser."""
    return engine_flags()


@pytest.fixture(scope="module")
def parsers():
    """The names that vLLM has registered, by the setting that takes them."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    return {
        "TOOL_CALL_PARSER": set(ToolParserManager.list_registered()),
        "REASONING_PARSER": set(ReasoningParserManager.list_registered()),
    }


@pytest.fixture(scope="module")
def seen():
    """Observations of one start of the engine."""
    return live.start("vllm")


# ---- functions that the adapter calls

SURFACE = [
    ("entrypoints.launchers.app", "build_app", "args supported_tasks model_config"),
    (
        "entrypoints.launchers.api_server.app_state",
        "init_app_state",
        "engine_client state args supported_tasks",
    ),
    (
        "entrypoints.launchers.api_server.entry",
        "build_async_engine_client",
        "args usage_context client_config",
    ),
    ("envs", "enable_envs_cache", ""),
    ("logger", "configure_logging_from_args", "args"),
    ("renderers.chat_utils", "validate_chat_template", "chat_template"),
]


def parameters_of(module, function):
    return list(inspect.signature(attrgetter(function)(import_module(f"vllm.{module}"))).parameters)


@pytest.mark.parametrize(
    ("module", "function", "parameters"), SURFACE, ids=[function for _, function, _ in SURFACE]
)
def test_called_functions_have_the_known_parameters(module, function, parameters):
    assert parameters_of(module, function) == parameters.split()


BODIES = {
    CHAT: "openai.chat_completion.protocol.ChatCompletionRequest",
    COMPLETIONS: "openai.completion.protocol.CompletionRequest",
    RESPONSES: "openai.responses.protocol.ResponsesRequest",
    MESSAGES: "anthropic.protocol.AnthropicMessagesRequest",
}


@pytest.mark.parametrize("client", CLIENT_BODIES)
def test_a_clients_body_is_valid(client):
    """As the worker hands it on."""
    path, body = CLIENT_BODIES[client]
    parser = RequestParser(("served",), "org/served", ENGINE_FIELDS["vllm"])
    job = parser.parse_job({"id": "j", "input": {"openai_route": path, "openai_input": body}})
    module, _, name = f"vllm.entrypoints.{BODIES[path]}".rpartition(".")
    getattr(import_module(module), name).model_validate(json.loads(job.request.body))


def test_errors_have_one_base():
    """What vLLM raises for a setting is a VLLMError, or one of Python's own."""
    from vllm.exceptions import VLLMError

    assert issubclass(VLLMError, Exception)


def test_the_exported_environment_is_read_by_vllm():
    from vllm.envs import environment_variables

    ours = {*ENVIRONMENT, *CPU_ENVIRONMENT, *REMOVED_VARIABLES, STARTUP_PLAN, "VLLM_LOGGING_LEVEL"}
    ours |= {"VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_OMP_THREADS_BIND"}
    ours |= {*CPU_KV_CACHE_ENVIRONMENT, start_method.VARIABLE}
    assert ours - environment_variables.keys() == {"TORCH_COMPILE_DISABLE"}


# ---- the table in handler/engine/vllm/patches.py, row by row


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        ("RequestOutputCollector", "output_kind request_id"),
        ("RequestOutputCollector.put", "self output"),
        ("RequestOutputCollector.get", "self"),
        ("RequestOutputCollector.get_nowait", "self"),
        (
            "RequestState.make_request_output",
            "self new_token_ids pooling_output finish_reason stop_reason kv_transfer_params "
            "ec_transfer_params error",
        ),
    ],
)
def test_replaced_request_state_and_collector(function, parameters):
    """With the known methods, and looked up in the module at each request."""
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import OutputProcessor

    assert parameters_of("v1.engine.output_processor", function) == parameters.split()
    assert "RequestOutputCollector" in AsyncLLM.add_request.__code__.co_names
    assert "RequestState" in OutputProcessor.add_request.__code__.co_names


def test_replaced_get_parser():
    """All routes that stream take their parser class from it, and call `parse_delta` only."""
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
    from vllm.parser.abstract_parser import Parser

    for serving in (OpenAIServingChat, OpenAIServingResponses):
        assert "get_parser" in serving.__init__.__code__.co_names
    assert list(inspect.signature(Parser.parse_delta).parameters) == (
        "self delta_text delta_token_ids request prompt_token_ids finished".split()
    )


def test_replaced_get_mp_context():
    """The engine core's process is made with it."""
    from vllm.v1.engine import utils

    assert parameters_of("v1.engine.utils", "get_mp_context") == []
    assert "get_mp_context" in utils.CoreEngineProcManager.__init__.__code__.co_names


def test_read_flags_of_the_start_method():
    """The method is chosen by them."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = cli_args().make_arg_parser(FlexibleArgumentParser()).parse_args([])
    chosen = start_method.choose(args, {}, is_cpu=False, architectures=[])
    assert (chosen, start_method.fork_count(args)) == (StartMethod("fork"), 1)


def test_read_name_of_the_process_of_a_rank():
    """A rank finds the core as its parent."""
    from vllm.v1.executor.multiproc_executor import WorkerProc

    assert f'name=f"{RANK_NAME}-{{rank}}"' in inspect.getsource(WorkerProc.make_worker_process)


def test_replaced_run_in_subprocess():
    """A model class is inspected with it."""
    from vllm.model_executor.models import registry

    assert parameters_of("model_executor.models.registry", "_run_in_subprocess") == ["fn"]
    inspect_model_cls = inspect.unwrap(registry._LazyRegisteredModel.inspect_model_cls)
    assert "_run_in_subprocess" in inspect_model_cls.__code__.co_names


def test_replaced_show_available_models():
    """It still shows the path of the model."""
    from vllm.entrypoints.openai.models.protocol import BaseModelPath
    from vllm.entrypoints.openai.models.serving import OpenAIModelRegistry

    name = "OpenAIServingModels.show_available_models"
    assert parameters_of("entrypoints.openai.models.serving", name) == ["self"]
    config = SimpleNamespace(max_model_len=8)
    registry = OpenAIModelRegistry(config, [BaseModelPath(name="m", model_path="/x/m")])
    [card] = asyncio.run(registry.show_available_models()).data
    assert (card.id, card.root) == ("m", "/x/m")


def test_the_filter_of_the_logs_handlers():
    """vLLM writes through handlers of one logger; one function logs what fails all requests."""
    from vllm.logger import DEFAULT_LOGGING_CONFIG
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError

    assert issubclass(EngineDeadError, Exception)
    logger = DEFAULT_LOGGING_CONFIG["loggers"]["vllm"]
    assert (logger["handlers"], logger["propagate"]) == (["vllm"], False)
    source = inspect.getsource(AsyncLLM._run_output_handler)
    assert f"async def {error_log.OUTPUT_HANDLER}(" in source
    assert "logger.exception(" in source


def test_replaced_app_state_server():
    """The error handler needs a server, and only sets its `should_exit`."""
    from vllm.entrypoints.launchers.launcher import terminate_if_errored
    from vllm.entrypoints.serve.exception_handling.handlers import vllm_error

    handlers = [each for each in vars(vllm_error).values() if inspect.isfunction(each)]
    using = [each for each in handlers if "terminate_if_errored" in each.__code__.co_names]
    assert ["server" in each.__code__.co_names for each in using] == [True]
    server = SimpleNamespace(should_exit=False)
    engine = SimpleNamespace(errored=True, is_running=False, should_keep_api_server_alive=False)
    terminate_if_errored(server, engine)
    assert server == SimpleNamespace(should_exit=True)


def test_subclassed_argument_parser():
    """It is argparse's, so our `error` takes the place of its exit."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    assert issubclass(FlexibleArgumentParser, argparse.ArgumentParser)
    assert list(inspect.signature(FlexibleArgumentParser.error).parameters) == ["self", "message"]


@pytest.mark.parametrize(
    ("function", "parameter"),
    [("make_arg_parser", "parser"), ("validate_parsed_serve_args", "args")],
)
def test_read_cli_args(function, parameter):
    found = getattr(cli_args(), function)
    assert list(inspect.signature(found).parameters) == [parameter]


@pytest.mark.parametrize(
    ("places", "found"),
    [
        (["launchers"], "launchers"),
        (["common"], "common"),
        (["launchers", "common"], "common"),
    ],
    ids=["0.32", "0.33", "both"],
)
def test_read_cli_args_in_both_places(monkeypatch, places, found):
    """Stand-ins, because only one release can be installed: 0.33 has moved the module."""
    modules = {place: f"vllm.entrypoints.{place}.cli_args" for place in ("launchers", "common")}
    for place, name in modules.items():
        stand_in = ModuleType(name) if place in places else None  # None: it cannot be imported
        monkeypatch.setitem(sys.modules, name, stand_in)
    assert cli_args().__name__ == modules[found]


def test_read_parser_managers_and_quantization_methods(parsers):
    """All names that users may set are registered."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    assert {"awq", "gptq", "fp8", "compressed-tensors"} <= set(QUANTIZATION_METHODS)
    assert "hermes" in parsers["TOOL_CALL_PARSER"]
    assert "qwen3" in parsers["REASONING_PARSER"]
    assert callable(ToolParserManager.import_tool_parser)
    assert callable(ReasoningParserManager.import_reasoning_parser)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("update", "self new_token_ids stop_terminated"),
        ("get_next_output_text", "self finished delta"),
        ("num_output_tokens", "self"),
    ],
)
def test_read_incremental_detokenizer(method, parameters):
    """Nothing else of a state's detokenizer is called."""
    from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer

    assert parameters_of("v1.engine.detokenizer", f"BaseIncrementalDetokenizer.{method}") == (
        parameters.split()
    )
    assert isinstance(BaseIncrementalDetokenizer.output_token_ids, property)
    read = set(re.findall(r"\.detokenizer\.(\w+)", inspect.getsource(output_processor_module())))
    assert read == {"update", "get_next_output_text", "num_output_tokens", "output_token_ids"}
    source = inspect.getsource(BaseIncrementalDetokenizer.__init__)
    assert "self.output_text = " in source
    assert "self.stop_buffer_length = " in source


def test_read_fast_incremental_detokenizer():
    from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

    source = inspect.getsource(FastIncrementalDetokenizer)
    source += inspect.getsource(FastIncrementalDetokenizer.__base__)
    read = ["stream", "tokenizer", "spaces_between_special_tokens", "output_text", "stop"]
    read += ["include_stop_str_in_output"]
    assert [name for name in read if not re.search(rf"self\.{name}(: \w+)? = ", source)] == []


def output_processor_module():
    return import_module("vllm.v1.engine.output_processor")


def test_read_delegating_parser():
    """What says that text becomes content as it is."""
    from vllm.parser.abstract_parser import DelegatingParser

    parser = DelegatingParser(tokenizer=None)
    assert (parser._stream_state.reasoning_ended, parser.tool_parser) == (False, None)
    assert isinstance(parser._engine_based, bool)


def test_read_delta_message():
    """The fields that are merged."""
    from vllm.entrypoints.generate.base.protocol import DeltaMessage, DeltaToolCall

    assert list(DeltaMessage.model_fields) == ["role", "content", "reasoning", "tool_calls"]
    assert list(DeltaToolCall.model_fields) == ["id", "type", "index", "function"]


# The worker's name of a method → quantization_config. For ModelOpt and auto-round vLLM ignores the
# user's name, and the worker refuses what contradicts the checkpoint.
CHECKPOINTS = {
    "awq": {"quant_method": "awq", "bits": 4},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "fp8": {"quant_method": "fp8"},
    "fbgemm_fp8": {"quant_method": "fbgemm_fp8"},
    "compressed-tensors": {"quant_method": "compressed-tensors"},
    "mxfp4": {"quant_method": "mxfp4"},
}


@pytest.mark.parametrize("method", CHECKPOINTS)
def test_quantization_names_that_vllm_accepts_are_of_the_checkpoints_family(method, monkeypatch):
    """On a GPU; on a CPU vLLM takes fewer."""
    from vllm.config.model import ModelConfig
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS, auto_awq

    gpu = SimpleNamespace(is_cpu=lambda: False)
    monkeypatch.setattr(auto_awq, "current_platform", gpu)
    accepted = set()
    for name in (*QUANTIZATION_METHODS, "marlin"):
        config = SimpleNamespace(
            quantization=name,
            model_arch_config=SimpleNamespace(quantization_config=dict(CHECKPOINTS[method])),
            hf_config=SimpleNamespace(model_type="llama"),
            allow_deprecated_quantization=True,
        )
        with contextlib.suppress(ValueError):
            ModelConfig._verify_quantization(config)
            accepted.add(name)
    assert accepted >= {"humming"}
    assert [name for name in sorted(accepted) if not method_matches(name, method)] == []


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_subclassed_workers_have_the_timed_steps(device):
    """On a GPU as well, whose class can be imported here but not made."""
    from vllm.utils.import_utils import resolve_obj_by_qualname

    from handler.engine.vllm.timed_worker import VLLM_WORKERS, TimedWorker

    theirs = resolve_obj_by_qualname(VLLM_WORKERS[device])
    ours = {step for step in vars(TimedWorker) if not step.startswith("_")}
    assert {step for step in ours if not callable(getattr(theirs, step, None))} == {"start_timings"}


def test_replaced_kernel_of_4_bit_weights():
    kernel, module = "CPUWNA16LinearKernel", "model_executor.kernels.linear"
    assert parameters_of(module, f"{kernel}.process_weights_after_loading") == ["self", "layer"]
    assert parameters_of(module, f"{kernel}.apply_weights") == ["self", "layer", "x", "bias"]


def test_read_execute_dummy_batch():
    assert parameters_of("v1.worker.gpu_worker", "Worker.execute_dummy_batch") == ["self"]


def test_read_process_title_of_a_rank(monkeypatch):
    from vllm.utils.system_utils import set_process_title

    titles = []
    monkeypatch.setattr("setproctitle.setproctitle", titles.append)
    set_process_title(name="Worker_TP1")
    assert titles == [f"{RANK_PROCESS}_TP1"]


def test_read_collective_rpc():
    """What else is read of AsyncLLM and of OpenAIServingModels a running engine shows, below."""
    parameters = parameters_of("v1.engine.async_llm", "AsyncLLM.collective_rpc")
    assert parameters == "self method timeout args kwargs".split()


@pytest.mark.parametrize("source", ["auto", "vllm"])
def test_a_models_generation_config_limits_answers(source):
    """Read as `max_tokens`; its own name is that of transformers."""
    config = SimpleNamespace(
        generation_config=source,
        override_generation_config={},
        try_get_generation_config=lambda: {"max_new_tokens": 8},
    )
    get = import_module("vllm.config.model").ModelConfig.get_diff_sampling_param
    assert get(config).get("max_tokens") == (8 if source == "auto" else None)


# ---- flags


def test_the_list_of_flags_is_the_parsers():
    """`python -m handler.engine.flag_names vllm` writes it."""
    assert json.loads(FLAG_NAMES.read_text())["vllm"] == flag_names("vllm")


def test_refused_flags_exist_and_removed_ones_do_not(flags):
    assert REFUSED - {action.dest for action in flags._parser._actions} == set()
    assert {*BOTH_ENGINES, *REMOVED["vllm"]} & flags.names == set()


def test_the_workers_own_flags_are_accepted(flags):
    """Those of each start, and those of some settings only."""
    written = [
        "--model=m",
        "--served-model-name=n",
        "--tokenizer=t",
        "--enable-prompt-tokens-details",
        "--no-use-tqdm-on-load",
        "--logging-config.formatter=json",
        "--enable-lora",
        f"--max-lora-rank={flags.choices('MAX_LORA_RANK')[-1]}",
        "--max-loras=1",
        "--lora-modules",
        '{"name": "a", "path": "b"}',
        *flags.argument("SPECULATIVE_CONFIG", '{"method": "ngram"}'),
        *flags.argument("QUANTIZATION", "fp8"),
        *flags.argument("CHAT_TEMPLATE", "x.jinja"),
    ]
    args = vars(flags.parse(written))
    assert {name: args[name] for name in READ} == READ


READ = {  # the arguments that `check` and `start` read
    "tool_strict_level": "auto",
    "model_tag": None,
    "chat_template": "x.jinja",
    "load_format": "auto",
    "quantization": "fp8",
    "tool_call_parser": None,
    "tool_parser_plugin": "",
    "reasoning_parser": "",
    "reasoning_parser_plugin": "",
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "distributed_executor_backend": None,
}


def test_aliases_are_flags(flags):
    assert {row.vllm for row in ALIASES} - flags.names == set()


def test_parsers_that_are_renamed_exist(parsers):
    """vLLM's column of both tables."""
    assert TOOL_CALL_PARSERS.keys() - parsers["TOOL_CALL_PARSER"] == set()
    assert REASONING_PARSERS.keys() - parsers["REASONING_PARSER"] == set()


def test_sglangs_names_set_vllms_flags(flags):
    """An environment that was made for worker-sglang serves vLLM; the values are converted."""
    environ = {
        "DTYPE": "bf16",
        "CONTEXT_LENGTH": "1000",
        "MAX_RUNNING_REQUESTS": "7",
        "CHUNKED_PREFILL_SIZE": "512",
        "MEM_FRACTION_STATIC": "0.5",
        "KV_CACHE_DTYPE": "bf16",
        "DISABLE_RADIX_CACHE": "true",
        "PAGE_SIZE": "16",
        "TP_SIZE": "2",
        "PP_SIZE": "3",
        "DP_SIZE": "4",
        "DISABLE_CUDA_GRAPH": "true",
        "RANDOM_SEED": "5",
        "JSON_MODEL_OVERRIDE_ARGS": '{"a": 1}',
        "LIMIT_MM_DATA_PER_REQUEST": '{"image": 2}',
        "IS_EMBEDDING": "true",
        "TOOL_CALL_PARSER": "llama3",
        "REASONING_PARSER": "deepseek-r1",
        "ENABLE_CACHE_REPORT": "true",
        "MAX_LORAS_PER_BATCH": "3",
        "MAX_LOADED_LORAS": "6",
    }
    assert environ.keys() == {row.sglang for row in ALIASES} - {None}
    parsed = vars(flags.parse(["--model=m", *flags.from_aliases("vllm", environ)]))
    expected = {
        "dtype": "bfloat16",
        "max_model_len": 1000,
        "max_num_seqs": 7,
        "max_num_batched_tokens": 512,
        "gpu_memory_utilization": 0.5,
        "kv_cache_dtype": "bfloat16",
        "enable_prefix_caching": False,
        "block_size": 16,
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 3,
        "data_parallel_size": 4,
        "enforce_eager": True,
        "seed": 5,
        "hf_overrides": {"a": 1},
        "limit_mm_per_prompt": {"image": 2},
        "runner": "pooling",
        "tool_call_parser": "llama3_json",
        "reasoning_parser": "deepseek_r1",
        "enable_prompt_tokens_details": True,
        "max_loras": 3,
        "max_cpu_loras": 6,
    }
    assert {name: parsed[name] for name in expected} == expected


def test_vllms_own_values_are_not_renamed(flags, parsers):
    renamed = {
        value: made
        for row in ALIASES
        for value in parsers.get(row.vllm) or flags._actions[row.vllm].choices or ()
        if (made := row.convert("vllm", row.vllm, value)) != value
    }
    assert renamed == {}


def test_speculative_methods_and_fields_exist():
    from vllm.config.speculative import SpeculativeConfig, SpeculativeMethod

    for method in METHODS:
        made = json.loads(speculative.vllm_config(method, None, Path("draft"), None))
        assert made["method"] in get_args(SpeculativeMethod)
        assert made.keys() - inspect.signature(SpeculativeConfig).parameters.keys() == set()


METHODS = sorted(set(get_args(SpeculativeMethod)) - {"none"})


# ---- a running engine


def test_running_off_the_main_thread_installs_no_signal_handler(seen):
    """The worker's own handlers of SIGTERM and SIGINT stay."""
    assert seen["new_signal_handlers"] == []


def test_running_read_capacity_from_vllm_config(seen):
    """Sequences, a KV cache of 1 GiB in whole blocks, and the context."""
    assert seen["capacity"] == {
        "max_sequences": 128,
        "kv_cache_tokens": 364 * 128,
        "max_model_tokens": 8192,
    }


def test_running_read_engine_client_and_serving_models(seen):
    assert (seen["alive"], seen["generates"]) == (True, True)
    assert seen["internals"] == {
        "errored": False,
        "model_config": "ModelConfig",
        "lora_requests": {},
        "should_exit": False,
    }


def test_running_show_available_models_has_no_path(seen):
    """/v1/models has the model's name where vLLM has its folder."""
    name = "smollm2-135m-instruct-awq"
    assert seen["models"] == [name, "small"]
    assert seen["roots"] == {name: name, "small": "small"}


def test_running_each_route_is_allowed_or_refused_on_purpose(seen):
    """Those of the app as it runs, too."""
    assert [path for path in seen["paths"] if not is_decided(path)] == []
    assert {"/v1/chat/completions", "/v1/models"} <= set(seen["paths"])


def test_running_the_fields_of_a_route_are_found(seen):
    """From the annotations of its FastAPI routes; the tables of `handler/request` know them."""
    fields = ENGINE_FIELDS["vllm"]
    assert seen["fields"] == {path: sorted(names) for path, names in fields.items()}


def test_running_a_stream_that_is_left_is_aborted(seen):
    """In the output processor, and in the scheduler's gauge after its next step."""
    assert (seen["streamed"], seen["open_meanwhile"], seen["running_after"]) == (True, 1, 0)
    assert seen["open_after"] == 0


def test_running_it_stops_in_order(seen):
    """No process is left, and no warning is logged."""
    assert (seen["processes_left"], seen["warnings"]) == ([], [])


# ---- freezes


def test_the_timeout_of_ranks_does_not_count_a_freeze(monkeypatch):
    """It is read on the clock that `rank_timeout` replaces, in the executor and in its queue."""
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.v1.executor import multiproc_executor

    executor = multiproc_executor.MultiprocExecutor
    for module in (shm_broadcast, multiproc_executor):
        monkeypatch.setattr(module, "time", module.time)  # so that it is set back
    monkeypatch.setattr(executor, "_init_executor", lambda self: started.append(self))
    started, clocks = [], []

    class Clock(AwakeClock):
        def __init__(self, **options):
            super().__init__(monotonic=lambda: self.seconds, cpu=lambda: 0.0, **options)
            self.seconds = 100.0
            clocks.append(self)

    monkeypatch.setattr(rank_timeout, "AwakeClock", Clock)
    rank_timeout.leave_out_freezes()
    [clock] = clocks
    made = SimpleNamespace()
    executor._init_executor(made)
    assert started == [made]
    with made._watch_for_freezes:
        timeout = shm_broadcast.MessageQueue.ReadTimeoutWithWarnings(300, should_warn=False)
        clock.seconds += 400.0
        assert timeout.timeout_ms() > 0
        clock.tick()
        assert timeout.timeout_ms() > 0
        for _ in range(400):
            clock.seconds += 1.0
            clock.tick()
        with pytest.raises(TimeoutError):
            timeout.timeout_ms()
    assert multiproc_executor.time.sleep is time.sleep
    source = inspect.getsource(executor.collective_rpc)
    assert "deadline - time.monotonic()" in source
    assert "time.monotonic() + timeout" in source


def test_one_rank_has_no_such_timeout():
    """The executor of one device calls the rank in its own process."""
    from vllm.v1.executor import uniproc_executor

    assert "VLLM_EXECUTE_MODEL_TIMEOUT" not in inspect.getsource(uniproc_executor)
