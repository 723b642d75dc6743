"""What the worker takes of SGLang, name by name: after an upgrade this says what has moved.

    .venv-sglang/bin/python -m pytest tests/contract/test_sglang.py

The tests whose names begin with `test_running` need one start of the engine; `-k "not running"`
leaves them out.
"""

import inspect
import json
import os
import signal
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI

from handler.engine import speculative
from handler.engine.aliases import (
    FLAG_NAMES,
    REASONING_PARSERS,
    TABLE,
    TOOL_CALL_PARSERS,
    arguments,
)
from handler.engine.flag_names import flag_names
from handler.engine.sglang.adapter import CPU_ARGUMENTS, ENVIRONMENT, SglangAdapter
from handler.engine.sglang.flags import REFUSED, REMOVED, engine_flags, memory_demand
from handler.environ import load
from handler.errors import InvalidSetting
from handler.model.resolve import ResolvedModel, resolve_model
from tests.contract import live

pytestmark = pytest.mark.filterwarnings("ignore")  # SGLang warns while it is imported


@pytest.fixture(scope="module")
def flags():
    """The flags of the engine's own parser."""
    return engine_flags()


@pytest.fixture(scope="module")
def seen():
    """What one start of the engine showed."""
    return live.start("sglang")


# ---- names and signatures


SURFACE = [
    ("server_args", "ServerArgs.add_cli_args", "parser"),
    ("server_args", "ServerArgs.from_cli_args", "args"),
    ("server_args", "ServerArgs.resolve_once", "self"),
    ("entrypoints.engine", "Engine", "kwargs"),
    ("entrypoints.engine", "Engine.get_all_child_pids", "self"),
    ("entrypoints.http_server", "set_global_state", "global_state"),
    (
        "entrypoints.http_server",
        "_GlobalState",
        "tokenizer_manager template_manager scheduler_info",
    ),
    (
        "entrypoints.http_server",
        "_wait_and_warmup",
        "server_args launch_callback execute_warmup_func post_warmup_callback",
    ),
    ("entrypoints.http_server", "_freeze_gc_after_server_warmup", "server_args"),
    ("managers.tokenizer_manager", "TokenizerManager.get_internal_state", "self"),
    ("entrypoints.openai.serving_base", "OpenAIServingBase._parse_model_parameter", "self model"),
    ("lora.lora_registry", "LoRARegistry.get_all_adapters", "self"),
    ("lora.lora_registry", "LoRARef", "lora_id lora_name lora_path pinned"),
]


@pytest.mark.parametrize(
    ("module", "function", "parameters"), SURFACE, ids=[function for _, function, _ in SURFACE]
)
def test_functions_are_where_they_were(module, function, parameters):
    """Each with the parameters that we know, in their order."""
    found = attrgetter(function)(import_module(f"sglang.srt.{module}"))
    assert list(inspect.signature(found).parameters) == parameters.split()


def test_the_start_says_which_processes_it_made():
    """With the scheduler's answer, in the result that the engine keeps."""
    from sglang.srt.entrypoints.engine import SchedulerInitResult

    result = SchedulerInitResult([{}])
    assert (result.scheduler_infos, result.all_child_pids) == ([{}], [])


def test_the_app_is_one_for_the_process():
    """A FastAPI object of the module; its lifespan reads the attributes that we set."""
    from sglang.srt.entrypoints import http_server

    assert type(http_server.app) is FastAPI
    read = http_server.lifespan.__wrapped__.__code__
    assert {"server_args", "warmup_thread_kwargs"} <= set(read.co_names)
    assert "is_single_tokenizer_mode" in read.co_consts


def test_what_we_replace_is_looked_up_when_it_is_called():
    """States, answers, and what would end the process or post to a server that does not run."""
    from sglang.srt.entrypoints import http_server
    from sglang.srt.entrypoints.openai import serving_embedding
    from sglang.srt.managers import tokenizer_manager

    manager = tokenizer_manager.TokenizerManager
    assert "ReqState" in manager._init_req_state.__code__.co_names
    assert "kill_process_tree" in tokenizer_manager.print_exception_wrapper.__code__.co_names
    embedding = serving_embedding.OpenAIServingEmbedding._build_embedding_response
    assert "EmbeddingResponse" in embedding.__code__.co_names
    state = tokenizer_manager.ReqState.__dataclass_fields__
    assert list(state)[:4] == ["out_list", "finished", "event", "obj"]
    warmup, models = http_server._wait_and_warmup, http_server.available_models
    assert "_freeze_gc_after_server_warmup" in warmup.__code__.co_names
    assert "ModelCard" in models.__code__.co_names
    assert {"id", "root"} <= http_server.ModelCard.model_fields.keys()


def test_sglang_reads_the_environment_that_we_set():
    """What would have a failed scheduler kill the worker is known by this name."""
    from sglang.srt.environ import envs

    assert [name for name in ENVIRONMENT if not hasattr(envs, name)] == []


# ---- flags


def test_the_list_of_flags_is_the_parsers():
    """`python -m handler.engine.flag_names sglang` writes it."""
    assert json.loads(FLAG_NAMES.read_text())["sglang"] == flag_names("sglang")


def test_refused_and_removed_names_are_what_they_are_called(flags):
    """What is refused exists, and what is removed does not."""
    assert REFUSED - {action.dest for action in flags._parser._actions} == set()
    assert REMOVED.keys() & flags.names == set()


def test_the_flags_that_the_worker_writes_are_taken(flags):
    """Those of each start, and those of some settings only."""
    written = [
        "--model-path=m",
        "--served-model-name=n",
        "--tokenizer-path=t",
        "--log-level=info",
        "--skip-server-warmup",
        "--sleep-on-idle",
        "--enable-metrics",
        "--enable-cache-report",
        "--enable-lora",
        "--lora-paths",
        '{"lora_name": "a", "lora_path": "b"}',
        *CPU_ARGUMENTS,
        *flags.argument("QUANTIZATION", "fp8"),
        *flags.argument("CHAT_TEMPLATE", "x.jinja"),
    ]
    assert flags.parse(written).load_format == "auto"


def test_shared_settings_are_flags(flags):
    """Each row of the table names one of SGLang's, or none."""
    assert {row.sglang for row in TABLE if row.sglang} - flags.names == set()


def test_vllms_names_set_its_flags(flags):
    """An environment that was made for vLLM serves SGLang; the values are converted."""
    environ = {
        "MAX_MODEL_LEN": "1000",
        "MAX_NUM_SEQS": "7",
        "MAX_NUM_BATCHED_TOKENS": "512",
        "GPU_MEMORY_UTILIZATION": "0.5",
        "KV_CACHE_DTYPE": "fp8",
        "ENABLE_PREFIX_CACHING": "false",
        "BLOCK_SIZE": "16",
        "TENSOR_PARALLEL_SIZE": "2",
        "PIPELINE_PARALLEL_SIZE": "3",
        "DATA_PARALLEL_SIZE": "4",
        "ENFORCE_EAGER": "true",
        "SEED": "5",
        "HF_OVERRIDES": '{"a": 1}',
        "RUNNER": "pooling",
        "ENABLE_AUTO_TOOL_CHOICE": "true",
        "TOOL_CALL_PARSER": "llama3_json",
        "REASONING_PARSER": "deepseek_r1",
        "ENABLE_PROMPT_TOKENS_DETAILS": "true",
        "MAX_LORAS": "3",
        "MAX_CPU_LORAS": "6",
    }
    assert environ.keys() == {row.vllm for row in TABLE}
    parsed = vars(flags.parse(["--model-path=m", *arguments(flags, "sglang", environ)]))
    expected = {
        "context_length": 1000,
        "max_running_requests": 7,
        "chunked_prefill_size": 512,
        "mem_fraction_static": 0.5,
        "kv_cache_dtype": "fp8_e4m3",
        "disable_radix_cache": True,
        "page_size": 16,
        "tp_size": 2,
        "pp_size": 3,
        "dp_size": 4,
        "disable_cuda_graph": True,
        "random_seed": 5,
        "json_model_override_args": '{"a": 1}',
        "is_embedding": True,
        "tool_call_parser": "llama3",
        "reasoning_parser": "deepseek-r1",
        "enable_cache_report": True,
        "max_loras_per_batch": 3,
        "max_loaded_loras": 6,
    }
    assert {name: parsed[name] for name in expected} == expected


def test_two_names_of_one_setting_have_to_agree(flags):
    """Which of them is meant, nobody knows."""
    both = {"MAX_NUM_SEQS": "7", "MAX_RUNNING_REQUESTS": "8"}
    with pytest.raises(InvalidSetting) as caught:
        arguments(flags, "sglang", both)
    assert str(caught.value) == (
        "MAX_NUM_SEQS='7' and MAX_RUNNING_REQUESTS='8' are one setting with two values: leave one "
        "of them out."
    )
    same = both | {"MAX_RUNNING_REQUESTS": "7"}
    assert arguments(flags, "sglang", same) == ["--max-running-requests=7"]


def test_shared_parsers_exist(flags):
    """SGLang's column of both tables."""
    choices = {name: set(flags._actions[name].choices) for name in PARSERS}
    assert {name: set(PARSERS[name].values()) - choices[name] for name in PARSERS} == {
        "TOOL_CALL_PARSER": set(),
        "REASONING_PARSER": set(),
    }


PARSERS = {"TOOL_CALL_PARSER": TOOL_CALL_PARSERS, "REASONING_PARSER": REASONING_PARSERS}


def test_names_that_sglang_has_reach_it_unchanged(flags):
    """A value is renamed only where SGLang has none of that name."""
    renamed = {
        value: made
        for row in TABLE
        for value in (row.sglang and flags._actions[row.sglang].choices) or ()
        if (made := row.convert("sglang", row.sglang, value)) != value
    }
    assert renamed == {}


def test_speculation_is_spelled_in_its_words(flags):
    """Each algorithm, and each flag of what the worker writes for it."""
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    for method, algorithm in speculative.SGLANG_ALGORITHMS.items():
        assert not SpeculativeAlgorithm.from_string(algorithm).is_none()
        made = speculative.sglang_flags(method, None, Path("draft"), None)
        assert made.keys() - flags.names == set()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], (1, 1, 1, 1.0)),
        (["--tp-size=4", "--pp-size=2", "--mem-fraction-static=0.8"], (8, 4, 2, 0.8)),
        (["--cpu-offload-gb=10"], None),
        (["--quantization=fp8"], None),
    ],
    ids=["as it is", "eight", "offloaded", "quantized while loading"],
)
def test_the_flags_say_what_has_to_fit_a_gpu(flags, given, expected):
    """Weights, over some GPUs, in a share of their memory."""
    from sglang.srt.server_args import ServerArgs

    args = ServerArgs.from_cli_args(flags.parse(["--model-path=/m", *given]))
    demand = memory_demand(args, ResolvedModel(Path("/m"), "org/m", None, "a local folder"))
    found = demand and (
        demand.gpus,
        demand.tensor_parallel_size,
        demand.kv_cache_parts,
        demand.memory_fraction,
    )
    assert found == expected


def test_a_failure_that_a_process_signals_is_the_engines_death(tmp_path):
    """SGLang's processes send SIGQUIT, whose default is the end of the worker."""
    (tmp_path / "config.json").write_text("{}")
    environ = {"MODEL_NAME": str(tmp_path), "ENGINE": "sglang"}
    settings = load(environ)
    adapter = SglangAdapter(settings, resolve_model(settings), environ)
    before = signal.getsignal(signal.SIGQUIT)
    try:
        adapter.prepare()
        alive = adapter._alive(SimpleNamespace(get_all_child_pids=list))
        assert alive()
        os.kill(os.getpid(), signal.SIGQUIT)
        assert not alive()
    finally:
        signal.signal(signal.SIGQUIT, before)


# ---- a running engine


def test_running_off_the_main_thread_installs_no_signal_handler(seen):
    """The worker's own stay: SIGTERM, SIGINT, and the SIGQUIT that the adapter takes before."""
    assert seen["new_signal_handlers"] == []


def test_running_it_says_what_it_holds(seen):
    """The batch and the KV cache that CPU_ARGUMENTS ask for, and the context."""
    assert seen["capacity"] == {
        "max_sequences": 64,
        "kv_cache_tokens": 16384,
        "max_model_tokens": 8192,
    }


def test_running_its_objects_have_what_we_touch(seen):
    """What the adapter reads only with adapters, or when it stops."""
    assert (seen["alive"], seen["generates"]) == (True, True)
    assert seen["touched"] == {
        "lora_registry": "LoRARegistry",
        "asyncio_tasks": ["Task"],
        "_subprocess_watchdog": "SubprocessWatchdog",
        "_stop_event": "Event",
    }


def test_running_it_shows_no_path(seen):
    """/v1/models says the model's name where SGLang would say its folder."""
    assert seen["models"] == ["smollm2-135m-instruct-bf16"]
    assert seen["root"] == "smollm2-135m-instruct-bf16"


def test_running_the_fields_of_a_route_are_found(seen):
    """From the annotations of its FastAPI routes."""
    assert {"messages", "temperature", "stream", "tools"} <= set(seen["chat_fields"])


def test_running_a_stream_that_is_left_is_aborted_within_a_second(seen):
    """In the tokenizer manager, which waits for the scheduler's word, and in its gauge."""
    assert (seen["streamed"], seen["held_meanwhile"], seen["running_after"]) == (True, 1, 0)
    assert seen["abort_seconds"] < 1


def test_running_it_stops_in_order(seen):
    """No process is left, and nothing had to be said of it."""
    assert (seen["processes_left"], seen["said"]) == ([], [])
