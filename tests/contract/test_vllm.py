"""What the worker takes of vLLM, name by name: after an upgrade this says what has moved.

    .venv/bin/python -m pytest tests/contract/test_vllm.py

The tests whose names begin with `test_running` need one start of the engine; `-k "not running"`
leaves them out.
"""

import argparse
import inspect
import json
import sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import get_args

import pytest

from handler.engine import speculative
from handler.engine.aliases import (
    FLAG_NAMES,
    REASONING_PARSERS,
    TABLE,
    TOOL_CALL_PARSERS,
    arguments,
)
from handler.engine.flag_names import flag_names
from handler.engine.vllm.adapter import RANK
from handler.engine.vllm.flags import REFUSED, REMOVED, cli_args, engine_flags
from handler.engine.vllm.platform import CPU_ENVIRONMENT, ENVIRONMENT, PLAN
from tests.contract import live

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported


@pytest.fixture(scope="module")
def flags():
    """The flags of the engine's own parser."""
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
    """What one start of the engine showed."""
    return live.start("vllm")


# ---- names and signatures


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
    ("v1.engine.output_processor", "RequestOutputCollector", "output_kind request_id"),
    ("v1.engine.output_processor", "RequestOutputCollector.put", "self output"),
    (
        "v1.engine.output_processor",
        "RequestState.make_request_output",
        "self new_token_ids pooling_output finish_reason stop_reason kv_transfer_params "
        "ec_transfer_params error",
    ),
    ("v1.engine.output_processor", "RequestOutputCollector.get", "self"),
    ("v1.engine.output_processor", "RequestOutputCollector.get_nowait", "self"),
    ("v1.engine.utils", "get_mp_context", ""),
    (
        "entrypoints.openai.models.serving",
        "OpenAIServingModels.show_available_models",
        "self",
    ),
    ("v1.engine.async_llm", "AsyncLLM.collective_rpc", "self method timeout args kwargs"),
    ("v1.worker.gpu_worker", "Worker.execute_dummy_batch", "self"),
    ("logger", "configure_logging_from_args", "args"),
    ("renderers.chat_utils", "validate_chat_template", "chat_template"),
]


@pytest.mark.parametrize(
    ("module", "function", "parameters"), SURFACE, ids=[function for _, function, _ in SURFACE]
)
def test_functions_are_where_they_were(module, function, parameters):
    """Each with the parameters that we know, in their order."""
    found = attrgetter(function)(import_module(f"vllm.{module}"))
    assert list(inspect.signature(found).parameters) == parameters.split()


@pytest.mark.parametrize(
    ("function", "parameter"),
    [("make_arg_parser", "parser"), ("validate_parsed_serve_args", "args")],
)
def test_the_command_line_is_found(function, parameter):
    """In whichever of its two places it is."""
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
def test_the_command_line_is_looked_for_in_both_places(monkeypatch, places, found):
    """Stand-ins, for only one release can be installed: 0.33 has moved it from launchers."""
    modules = {place: f"vllm.entrypoints.{place}.cli_args" for place in ("launchers", "common")}
    for place, name in modules.items():
        stand_in = ModuleType(name) if place in places else None  # None: it cannot be imported
        monkeypatch.setitem(sys.modules, name, stand_in)
    assert cli_args().__name__ == modules[found]


def test_the_parser_can_be_made_to_raise():
    """It is argparse's, so our `error` takes the place of its exit."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    assert issubclass(FlexibleArgumentParser, argparse.ArgumentParser)
    assert list(inspect.signature(FlexibleArgumentParser.error).parameters) == ["self", "message"]


def test_errors_have_one_base():
    """What vLLM raises of a setting is a VLLMError, or one of Python's own."""
    from vllm.exceptions import VLLMError

    assert issubclass(VLLMError, Exception)


def test_quantization_methods_are_listed():
    """By their names, those that the README mentions among them."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    assert {"awq", "gptq", "fp8", "compressed-tensors"} <= set(QUANTIZATION_METHODS)


def test_a_dead_engine_asks_the_server_to_end():
    """Only by an attribute of `app.state.server`, so an object with that attribute is enough."""
    from vllm.entrypoints.launchers.launcher import terminate_if_errored

    server = SimpleNamespace(should_exit=False)
    engine = SimpleNamespace(errored=True, is_running=False, should_keep_api_server_alive=False)
    terminate_if_errored(server, engine)
    assert server == SimpleNamespace(should_exit=True)


def test_vllm_reads_the_environment_that_we_set():
    """Each name that is vLLM's own, and the key that we take away."""
    from vllm.envs import environment_variables

    ours = {*ENVIRONMENT, *CPU_ENVIRONMENT, PLAN, "VLLM_LOGGING_LEVEL", "VLLM_API_KEY"}
    ours |= {"VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_OMP_THREADS_BIND"}
    assert ours - environment_variables.keys() == {"TORCH_COMPILE_DISABLE"}


def test_the_process_of_a_rank_is_named(monkeypatch):
    """By the name that the adapter looks for, and more."""
    from vllm.utils.system_utils import set_process_title

    titles = []
    monkeypatch.setattr("setproctitle.setproctitle", titles.append)
    set_process_title(name="Worker_TP1")
    assert titles == [f"{RANK}_TP1"]


def test_what_we_replace_is_looked_up_when_it_is_called():
    """A request's collector and state, how the core is started, where a class is imported."""
    from vllm.model_executor.models import registry
    from vllm.v1.engine import utils
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import OutputProcessor

    assert "RequestOutputCollector" in AsyncLLM.add_request.__code__.co_names
    assert "RequestState" in OutputProcessor.add_request.__code__.co_names
    assert "get_mp_context" in utils.CoreEngineProcManager.__init__.__code__.co_names
    inspected = inspect.unwrap(registry._LazyRegisteredModel.inspect_model_cls)
    assert "_run_in_subprocess" in inspected.__code__.co_names


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_step_that_is_timed_is_one_of_the_ranks_own(device):
    """On a GPU as well, whose class can be imported here and not made."""
    from vllm.utils.import_utils import resolve_obj_by_qualname

    from handler.engine.vllm.timed_worker import OWN, TimedWorker

    theirs = resolve_obj_by_qualname(OWN[device])
    ours = {step for step in vars(TimedWorker) if not step.startswith("_")}
    assert {step for step in ours if not callable(getattr(theirs, step, None))} == {"start_timings"}


# ---- flags


def test_the_list_of_flags_is_the_parsers():
    """`python -m handler.engine.flag_names vllm` writes it."""
    assert json.loads(FLAG_NAMES.read_text())["vllm"] == flag_names("vllm")


def test_refused_and_removed_names_are_what_they_are_called(flags):
    """What is refused exists, and what is removed does not."""
    assert REFUSED - {action.dest for action in flags._parser._actions} == set()
    assert REMOVED.keys() & flags.names == set()


def test_the_flags_that_the_worker_writes_are_taken(flags):
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


READ = {  # the arguments that `check` reads
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


def test_shared_settings_are_flags(flags):
    """Each row of the table names one of vLLM's."""
    assert {row.vllm for row in TABLE} - flags.names == set()


def test_shared_parsers_exist(parsers):
    """vLLM's column of both tables."""
    assert TOOL_CALL_PARSERS.keys() - parsers["TOOL_CALL_PARSER"] == set()
    assert REASONING_PARSERS.keys() - parsers["REASONING_PARSER"] == set()


def test_sglangs_names_set_its_flags(flags):
    """An environment that was made for worker-sglang serves vLLM; the values are converted."""
    environ = {
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
        "IS_EMBEDDING": "true",
        "TOOL_CALL_PARSER": "llama3",
        "REASONING_PARSER": "deepseek-r1",
        "ENABLE_CACHE_REPORT": "true",
        "MAX_LORAS_PER_BATCH": "3",
        "MAX_LOADED_LORAS": "6",
    }
    assert environ.keys() == {row.sglang for row in TABLE} - {None}
    parsed = vars(flags.parse(["--model=m", *arguments(flags, "vllm", environ)]))
    expected = {
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
        "runner": "pooling",
        "tool_call_parser": "llama3_json",
        "reasoning_parser": "deepseek_r1",
        "enable_prompt_tokens_details": True,
        "max_loras": 3,
        "max_cpu_loras": 6,
    }
    assert {name: parsed[name] for name in expected} == expected


def test_names_that_vllm_has_reach_it_unchanged(flags, parsers):
    """A value is renamed only where vLLM has none of that name."""
    renamed = {
        value: made
        for row in TABLE
        for value in parsers.get(row.vllm) or flags._actions[row.vllm].choices or ()
        if (made := row.convert("vllm", row.vllm, value)) != value
    }
    assert renamed == {}


def test_speculation_is_spelled_in_its_words():
    """Each method, and each field of what the worker writes for it."""
    from vllm.config.speculative import SpeculativeConfig, SpeculativeMethod

    for method in METHODS:
        made = json.loads(speculative.vllm_config(method, None, Path("draft"), None))
        assert made["method"] in get_args(SpeculativeMethod)
        assert made.keys() - inspect.signature(SpeculativeConfig).parameters.keys() == set()


METHODS = sorted(set(get_args(speculative.Method)) - {"none"})


# ---- a running engine


def test_running_off_the_main_thread_installs_no_signal_handler(seen):
    """The worker's own handlers of SIGTERM and SIGINT stay."""
    assert seen["new_signal_handlers"] == []


def test_running_it_says_what_it_holds(seen):
    """The batch, the KV cache of 1 GiB in whole blocks, and the context."""
    assert seen["capacity"] == {
        "max_sequences": 128,
        "kv_cache_tokens": 364 * 128,
        "max_model_tokens": 8192,
    }


def test_running_its_objects_have_what_we_touch(seen):
    """What else the adapter reads, beside the capacity."""
    assert (seen["alive"], seen["generates"]) == (True, True)
    assert seen["touched"] == {
        "errored": False,
        "model_config": "ModelConfig",
        "lora_requests": {},
        "should_exit": False,
    }


def test_running_it_shows_no_path(seen):
    """/v1/models says the model's name where vLLM would say its folder."""
    assert seen["models"] == ["smollm2-135m-instruct-awq"]
    assert seen["root"] == "smollm2-135m-instruct-awq"


def test_running_the_fields_of_a_route_are_found(seen):
    """From the annotations of its FastAPI routes."""
    assert {"messages", "temperature", "stream", "tools"} <= set(seen["chat_fields"])


def test_running_a_stream_that_is_left_is_aborted_within_a_second(seen):
    """In the engine's front, and in the scheduler's gauge after its next step."""
    assert (seen["streamed"], seen["held_meanwhile"], seen["running_after"]) == (True, 1, 0)
    assert seen["abort_seconds"] < 1


def test_running_it_stops_in_order(seen):
    """No process is left, and nothing had to be said of it."""
    assert (seen["processes_left"], seen["said"]) == ([], [])
