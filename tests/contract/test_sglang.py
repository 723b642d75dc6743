"""What the worker uses of SGLang, name by name: after an upgrade a failing test says what moved.

    .venv-sglang/bin/python -m pytest tests/contract/test_sglang.py

The tests whose names begin with `test_running` need one start of the engine; `-k "not running"`
leaves them out.
"""

import ast
import contextlib
import inspect
import json
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from handler.engine.failed_start.out_of_memory import GIB, Shortage, is_out_of_memory, shortage_of
from handler.engine.failed_start.report import KV_CACHE, WEIGHTS, Failure, FailureReport
from handler.engine.flag_names import flag_names
from handler.engine.flags import speculative
from handler.engine.flags.aliases import (
    ALIASES,
    FLAG_NAMES,
    REASONING_PARSERS,
    TOOL_CALL_PARSERS,
)
from handler.engine.flags.removed_names import BOTH_ENGINES, REMOVED
from handler.engine.grammar_threads import CACHE_MIB
from handler.engine.sglang import adapter as sglang_adapter
from handler.engine.sglang import configuration, patches
from handler.engine.sglang.adapter import SglangAdapter
from handler.engine.sglang.detokenizer import append_only_status
from handler.engine.sglang.flags import (
    KERNELS,
    POSITIVE,
    REFUSED,
    engine_flags,
    memory_demand,
    worker_arguments,
)
from handler.engine.sglang.grammars import (
    CONSTRAINT_LINE,
    MAX_CACHED,
    REQUEST_MODULE,
    WithoutConstraint,
)
from handler.engine.sglang.patches import run_detokenizer, run_scheduler
from handler.engine.sglang.platform import CPU_ARGUMENTS, ENVIRONMENT
from handler.errors import InvalidSetting
from handler.model.harmony import FILE, VARIABLE
from handler.model.quantization import method_matches
from handler.model.resolve import ResolvedModel, resolve_model
from handler.request.parse import RequestParser
from handler.settings.environ import load_settings
from tests.contract import live
from tests.contract.routes import is_decided
from tests.support.client_bodies import CHAT, CLIENT_BODIES, COMPLETIONS, MESSAGES, RESPONSES
from tests.support.engine_fields import ENGINE_FIELDS
from tests.support.environment import clean_environment
from tests.support.failed_starts import failure_of

MIB = 1 << 20

pytestmark = pytest.mark.filterwarnings("ignore")  # SGLang warns while it is imported


@pytest.fixture(scope="module")
def flags():
    """The flags of SGLang's parser."""
    return engine_flags()


@pytest.fixture(scope="module")
def seen():
    """Observations of one start of the engine."""
    return live.start("sglang")


# ---- the table in handler/engine/sglang/patches.py, row by row


def found(module, name):
    return attrgetter(name)(import_module(f"sglang.srt.{module}"))


def parameters_of(module, function):
    return list(inspect.signature(found(module, function)).parameters)


def test_replaced_req_state():
    """A dataclass whose event is its third field, looked up in the module at each request."""
    state = found("managers.tokenizer_manager", "ReqState")
    assert list(state.__dataclass_fields__)[:4] == ["out_list", "finished", "event", "obj"]
    make_state = found("managers.tokenizer_manager", "TokenizerManager._init_req_state")
    assert "ReqState" in make_state.__code__.co_names


def test_replaced_streams_of_parsed_text():
    """A parser still loses the second of two calls in one delta; of the rest nothing has moved."""
    parser = found("function_call.function_call_parser", "FunctionCallParser")
    calls = '<|python_tag|>{"name": "a", "parameters": {}}; {"name": "b", "parameters": {}}'
    tools = [{"type": "function", "function": {"name": name}} for name in "ab"]
    tools = [found("entrypoints.openai.protocol", "Tool")(**tool) for tool in tools]
    _, streamed = parser(tools, "llama3").parse_stream_chunk(calls)
    assert [call.name for call in streamed] == ["a"]
    _, plain = parser(tools, "llama3").parse_non_stream(calls)
    assert [call.name for call in plain] == ["a", "b"]

    chat = "OpenAIServingChat._generate_chat_stream"
    parameters = "self adapted_request request raw_request".split()
    assert parameters_of("entrypoints.openai.serving_chat", chat) == parameters
    content = set(parameters_of("entrypoints.openai.serving_chat", GENERATE_CONTENT))
    assert {"content", "index", "choice_logprobs", "finish_reason_type"} <= content
    streams = found("entrypoints.openai.serving_chat", chat).__code__.co_names
    assert "_generate_stream_content" in streams
    response = "OpenAIServingResponses._generate_with_builtin_tools"
    parameters = "self request_id request_prompt adapted_request".split()
    assert parameters_of("entrypoints.openai.serving_responses", response)[:4] == parameters
    assert "last_output" in vars(found("entrypoints.context", "SimpleContext")())


GENERATE_CONTENT = "OpenAIServingChat._generate_stream_content"


def test_replaced_scheduler_process(monkeypatch):
    """The scheduler's process keeps few constraints, whatever the backend."""
    scheduler = import_module("sglang.srt.managers.scheduler")
    base = import_module("sglang.srt.constrained.base_grammar_backend")
    xgrammar = import_module("sglang.srt.constrained.xgrammar_backend")
    engine = found("entrypoints.engine", "Engine")
    assert engine.run_scheduler_process_func is scheduler.run_scheduler_process
    assert pickle.loads(pickle.dumps(run_scheduler)) is run_scheduler
    seen, made = [], []
    init = base.BaseGrammarBackend.__init__
    monkeypatch.setattr(base.BaseGrammarBackend, "__init__", init)  # so that it is set back
    monkeypatch.setattr(scheduler, "get_exception_traceback", scheduler.get_exception_traceback)
    monkeypatch.setattr(xgrammar, "GrammarCompiler", lambda **named: made.append(named))
    monkeypatch.setattr(scheduler, "run_scheduler_process", lambda *a, **n: seen.append((a, n)))
    run_scheduler("args", gpu_id=0)
    assert seen == [(("args",), {"gpu_id": 0})]
    for name in (xgrammar.__name__, REQUEST_MODULE):
        assert isinstance(logging.getLogger(name).filters[-1], WithoutConstraint)
    xgrammar.GrammarCompiler(tokenizer_info="info")
    assert made == [{"tokenizer_info": "info", "cache_limit_bytes": CACHE_MIB << 20}]
    backend = base.BaseGrammarBackend()
    for number in range(MAX_CACHED + 1):
        assert backend.cache.get(0, number) == 0  # used each time, so it stays
        backend.set_cache(number, number)
    assert sorted(backend.cache) == [0, *range(2, MAX_CACHED + 1)]


def formatted_lines(module):
    """Return the f-strings that a module logs, with SECRET for all but the kind of a constraint."""
    tree = ast.parse(inspect.getsource(module))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in calls:
        if not ast.unparse(call.func).startswith("logger."):
            continue
        for text in call.args:
            if isinstance(text, ast.JoinedStr):
                kinds = {"key_type": "'json'", "self.rid": "'job-1'", "key[0]": "json"}
                yield "".join(
                    part.value
                    if isinstance(part, ast.Constant)
                    else kinds.get(ast.unparse(part.value), "SECRET")
                    for part in text.values
                )


@pytest.mark.parametrize(
    "name",
    ["base_grammar_backend", "grammar_manager", "xgrammar_backend", "llguidance_backend"],
)
def test_a_constraint_is_cut_off_each_line_that_has_it(name):
    """In a line of debugging it is not."""
    module = import_module(f"sglang.srt.constrained.{name}")
    lines = [
        line
        for line in formatted_lines(module)
        if not line.startswith(("Grammar backend disabled", "Abort grammar queue request"))
    ]
    assert lines
    assert [line for line in lines if "SECRET" in CONSTRAINT_LINE.sub(r"\1\2", line)] == []


def test_a_request_whose_constraint_fails_logs_it_in_the_line_that_is_cut():
    source = inspect.getsource(found("constrained.grammar_manager", "GrammarManager"))
    assert 'f"Failed to compile {key[0]} grammar: {value.error_message}"' in source
    assert (
        'f"Failed to compile {req.grammar_key[0]} grammar: {req.grammar.error_message}"' in source
    )
    method = inspect.getsource(found("managers.schedule_batch", "Req").set_finish_with_abort)
    assert 'logger.error(f"{error_msg}, {self.rid=}")' in method


def test_replaced_detokenizer_process(monkeypatch):
    """The engine's own is the function that is called in it, and it can be sent to a process."""
    manager = import_module("sglang.srt.managers.detokenizer_manager")
    engine = found("entrypoints.engine", "Engine")
    assert engine.run_detokenizer_process_func is manager.run_detokenizer_process
    assert pickle.loads(pickle.dumps(run_detokenizer)) is run_detokenizer
    seen = []
    monkeypatch.setattr(manager, "DecodeStatus", manager.DecodeStatus)  # so that it is set back
    monkeypatch.setattr(manager, "run_detokenizer_process", lambda *a, **n: seen.append((a, n)))
    run_detokenizer("args", port_args="ports")
    assert seen == [(("args",), {"port_args": "ports"})]
    assert manager.DecodeStatus.__name__ == append_only_status().__name__


def test_a_scheduler_that_fails_is_reported_from_its_own_process(monkeypatch):
    """SGLang catches the exception, logs its traceback, and sends SIGQUIT to the worker."""
    from sglang.srt.managers import scheduler

    class Failing:
        def __init__(self, *_: object) -> None:
            self.load_model()

        def load_model(self) -> None:
            raise RuntimeError("no memory") from ValueError("2 GiB")

    engine = found("entrypoints.engine", "Engine")
    assert engine.run_scheduler_process_func is scheduler.run_scheduler_process
    assert pickle.loads(pickle.dumps(run_scheduler)) is run_scheduler
    signals = []
    parent = SimpleNamespace(send_signal=signals.append)
    monkeypatch.setattr(scheduler, "get_exception_traceback", scheduler.get_exception_traceback)
    monkeypatch.setattr(patches, "bound_grammars", lambda: None)
    monkeypatch.setattr(patches, "keep_constraints_out_of_logs", lambda: None)
    monkeypatch.setattr(scheduler, "Scheduler", Failing)
    monkeypatch.setattr(scheduler.psutil, "Process", lambda: SimpleNamespace(parent=lambda: parent))
    for name in (
        *("load_plugins", "resolve_spawn_dp_rank", "publish", "spawn_world_rank", "SpawnRanks"),
        *("configure_scheduler_process", "get_observability"),
    ):
        monkeypatch.setattr(scheduler, name, lambda *_, **__: SimpleNamespace(enable_trace=False))
    with FailureReport() as report:
        run_scheduler(None, None, 0, 0, 0, None, None)
        assert report.read() == Failure(("RuntimeError: no memory", "ValueError: 2 GiB"), WEIGHTS)
    assert signals == [signal.SIGQUIT]


# ---- what the second start reads of SGLang


def test_the_steps_of_the_start_are_methods_of_its_model_runner():
    runner = found("model_executor.model_runner", "ModelRunner")
    assert [name for name in patches.STEPS if not callable(getattr(runner, name, None))] == []


def test_its_text_of_too_large_weights_is_understood(monkeypatch):
    """Weights of 18 GiB of 24, with a share of 0.7."""
    pools = import_module("sglang.srt.mem_cache.kv_cache_configurator")
    group = SimpleNamespace(prefill=SimpleNamespace(full_prefill_max_req=None, backend=None))
    for name, value in {
        "get_available_gpu_memory": 6.0,
        "get_parallel": SimpleNamespace(
            launch_world_size=1, world_group=SimpleNamespace(cpu_group=None)
        ),
        "get_schedule": SimpleNamespace(
            mem_fraction_static=0.7, prefill_max_requests=None, max_mamba_cache_size=None
        ),
        "get_exec": SimpleNamespace(graph=SimpleNamespace(cuda_graph_config=group)),
        "get_disagg": SimpleNamespace(disaggregation_mode="null"),
        "get_mm": SimpleNamespace(mm_feature_transport=None),
        "mm_runtime_reservation_gb": 0.0,
    }.items():
        monkeypatch.setattr(pools, name, lambda *_, answer=value, **__: answer)
    runner = SimpleNamespace(
        device="cuda",
        gpu_id=0,
        mambaish_config=None,
        model_config=SimpleNamespace(is_multimodal=False),
    )
    with pytest.raises(ValueError, match="Loaded weights") as caught:
        pools.KVCacheConfigurator._profile_available_bytes(runner, 24.0)
    failure = failure_of(caught.value)
    start = SimpleNamespace(
        memory_fraction=0.7, total_bytes=24 * GIB, model_tokens=2, kv_token_bytes=10
    )
    available = int((0.7 - 0.75) * 24 * GIB)
    assert is_out_of_memory(failure)
    assert shortage_of(failure, start) == Shortage(20 - available, KV_CACHE, available)


def test_its_other_texts_are_understood():
    config = found("model_executor.pool_configurator", "MemoryPoolConfig")
    with pytest.raises(RuntimeError) as caught:
        config(0)
    assert is_out_of_memory(failure_of(caught.value))
    capture = inspect.getsource(
        import_module("sglang.srt.model_executor.runner.decode_cuda_graph_runner")
    )
    assert "Capture cuda graph failed: {e}" in capture  # with PyTorch's text in it


def test_the_memory_that_it_reserves_for_a_step():
    """By batched token, by sequence of the largest graph, and no less than for 2,048 tokens."""
    hook = inspect.getsource(import_module("sglang.srt.arg_groups.memory_hook"))
    assert "max(cfg.chunked_prefill_size, 2048)" in hook
    assert "reserved_mem += activation_tokens * 1.5" in hook
    assert "reserved_mem += decode_cuda_graph_config.max_bs * 2" in hook
    assert (configuration.TOKEN_BYTES, configuration.GRAPH_BYTES) == (1.5 * MIB, 2 * MIB)
    assert configuration.MIN_BATCHED_TOKENS == 2048


def test_replaced_decode_status():
    """What is sent still goes back where an unfinished character follows another."""
    manager = found("managers.detokenizer_manager", "DetokenizerManager")
    decode = manager._decode_batch_token_id_output.__code__.co_names
    assert {"DecodeStatus", "sent_offset", "find_printable_text"} <= set(decode)
    printable = import_module("sglang.utils").find_printable_text
    assert [printable(text) for text in ("東京\ufffd", "東京は\ufffd")] == ["東京", ""]
    sent = []
    for made in (found("managers.detokenizer_manager", "DecodeStatus"), append_only_status()):
        status = made(decoded_text="", decode_ids=[], surr_offset=0, read_offset=0)
        status.sent_offset = 2
        status.sent_offset = 0
        sent.append(status.sent_offset)
    assert sent == [0, 2]


def test_replaced_kill_process_tree():
    """Called when the tokenizer manager's loop raises."""
    wrapper = found("managers.tokenizer_manager", "print_exception_wrapper")
    assert "kill_process_tree" in wrapper.__code__.co_names


def test_replaced_model_card():
    """The list of models still has a path for each LoRA adapter."""
    listed = found("entrypoints.http_server", "available_models").__code__.co_names
    assert {"ModelCard", "lora_path"} <= set(listed)
    card = found("entrypoints.http_server", "ModelCard")
    assert {"id", "root"} <= card.model_fields.keys()


def test_replaced_model_list():
    """It is still made once, of cards in the order that /v1/models has, for one name."""
    listed = found("entrypoints.http_server", "available_models").__code__.co_names
    assert {"ModelList", "served_model_name"} <= set(listed)
    assert list(found("entrypoints.http_server", "ModelList").model_fields) == ["object", "data"]


def test_replaced_embedding_response():
    """It still gets the path of the model."""
    build = "OpenAIServingEmbedding._build_embedding_response"
    names = found("entrypoints.openai.serving_embedding", build).__code__.co_names
    assert {"EmbeddingResponse", "model_path"} <= set(names)


def test_replaced_parse_model_parameter():
    """It still takes no adapter's own name, and takes a name with a colon apart."""
    name = "OpenAIServingBase._parse_model_parameter"
    assert parameters_of("entrypoints.openai.serving_base", name) == ["self", "model"]
    serving = SimpleNamespace(tokenizer_manager=SimpleNamespace(served_model_name="model"))
    parse = found("entrypoints.openai.serving_base", name)
    assert parse(serving, "adapter") == ("adapter", None)
    assert parse(serving, "model:adapter") == ("model", "adapter")
    assert parse(serving, "s3://adapter") == ("s3", "//adapter")


def test_replaced_build_sampling_params():
    """Of a completion; a limit of None is the rest of the context, in the scheduler."""
    module, name = "entrypoints.openai.serving_completions", "OpenAIServingCompletion"
    build = f"{name}._build_sampling_params"
    assert parameters_of(module, build) == ["self", "request"]
    request = found("entrypoints.openai.protocol", "CompletionRequest")(prompt="a", max_tokens=5)
    assert found(module, build)(None, request)["max_new_tokens"] == 5
    serving = found(module, name)
    assert "tokenizer_manager" in inspect.signature(serving.__init__).parameters
    limit = found("managers.scheduler", "Scheduler.init_req_max_new_tokens").__code__
    assert {"max_new_tokens", "max_req_len"} <= set(limit.co_names)


def test_replaced_handler_of_validation_errors():
    """SGLang's answer still has the file of its code."""
    client = TestClient(found("entrypoints.http_server", "app"))
    answer = client.post("/v1/completions", json={"model": "m", "prompt": "x", "n": "many"})
    assert answer.status_code == 400
    assert found("entrypoints.http_server", "__file__") in answer.json()["message"]


def test_set_on_the_app_what_its_launcher_sets():
    """A FastAPI object of the module; its lifespan reads the attributes."""
    app = found("entrypoints.http_server", "app")
    assert type(app) is FastAPI
    lifespan = found("entrypoints.http_server", "lifespan").__wrapped__.__code__
    assert {"server_args", "warmup_thread_kwargs"} <= set(lifespan.co_names)
    assert "is_single_tokenizer_mode" in lifespan.co_consts
    assert parameters_of("entrypoints.http_server", "set_global_state") == ["global_state"]
    state = "tokenizer_manager template_manager scheduler_info".split()
    assert parameters_of("entrypoints.http_server", "_GlobalState") == state
    warmup = "server_args launch_callback execute_warmup_func post_warmup_callback".split()
    assert parameters_of("entrypoints.http_server", "_wait_and_warmup") == warmup
    assert found("managers.tokenizer_manager", "ServerStatus").Up.value == "Up"


@pytest.mark.parametrize(
    ("function", "parameter"), [("add_cli_args", "parser"), ("from_cli_args", "args")]
)
def test_read_server_args(function, parameter):
    assert parameters_of("server_args", f"ServerArgs.{function}") == [parameter]
    assert parameters_of("server_args", "ServerArgs.resolve_once") == ["self"]


def test_read_the_strictness_of_tools(monkeypatch):
    assert patches.constrains_tools() is False
    monkeypatch.setenv("SGLANG_TOOL_STRICT_LEVEL", "1")
    assert patches.constrains_tools() is True


def test_read_scheduler_init_result():
    """Kept by the engine, with the schedulers' answers and all processes."""
    result = found("entrypoints.engine", "SchedulerInitResult")([{}])
    assert (result.scheduler_infos, result.all_child_pids) == ([{}], [])
    assert parameters_of("entrypoints.engine", "Engine") == ["kwargs"]
    assert parameters_of("entrypoints.engine", "Engine.get_all_child_pids") == ["self"]


def test_read_watchdog_and_the_shutdown_that_kills_all_children():
    assert parameters_of("utils.watchdog", "SubprocessWatchdog.stop") == ["self"]
    shutdown = found("entrypoints.engine", "Engine.shutdown").__code__
    assert {"kill_process_tree", "_subprocess_watchdog"} <= set(shutdown.co_names)


def test_read_tokenizer_manager():
    """The rest of what is read a running engine shows, below."""
    manager = "TokenizerManager.get_internal_state"
    assert parameters_of("managers.tokenizer_manager", manager) == ["self"]
    assert parameters_of("lora.lora_registry", "LoRARegistry.get_all_adapters") == ["self"]
    adapter = "lora_id lora_name lora_path pinned".split()
    assert parameters_of("lora.lora_registry", "LoRARef") == adapter


BODIES = {
    CHAT: "openai.protocol.ChatCompletionRequest",
    COMPLETIONS: "openai.protocol.CompletionRequest",
    RESPONSES: "openai.protocol.ResponsesRequest",
    MESSAGES: "anthropic.protocol.AnthropicMessagesRequest",
}


@pytest.mark.parametrize("client", CLIENT_BODIES)
def test_a_clients_body_is_valid(client):
    """As the worker hands it on."""
    path, body = CLIENT_BODIES[client]
    parser = RequestParser(("served",), "org/served", ENGINE_FIELDS["sglang"])
    job = parser.parse_job({"id": "j", "input": {"openai_route": path, "openai_input": body}})
    module, _, name = f"entrypoints.{BODIES[path]}".rpartition(".")
    found(module, name).model_validate(json.loads(job.request.body))


def test_the_exported_environment_is_read_by_sglang():
    from sglang.srt.environ import envs

    assert [name for name in ENVIRONMENT if not hasattr(envs, name)] == []


# ---- flags


def test_the_list_of_flags_is_the_parsers():
    """`python -m handler.engine.flag_names sglang` writes it."""
    assert json.loads(FLAG_NAMES.read_text())["sglang"] == flag_names("sglang")


def test_refused_flags_exist_and_removed_ones_do_not(flags):
    assert (REFUSED | POSITIVE) - {action.dest for action in flags._parser._actions} == set()
    assert {*BOTH_ENGINES, *REMOVED["sglang"]} & flags.names == set()


def test_the_workers_own_flags_are_accepted(flags):
    """Those of each start, and those of some settings only."""
    written = [
        "--model-path=m",
        "--served-model-name=n",
        "--tokenizer-path=t",
        "--log-level=info",
        "--sleep-on-idle",
        "--enable-metrics",
        "--enable-cache-report",
        "--enable-lora",
        "--lora-paths",
        '{"lora_name": "a", "lora_path": "b"}',
        *CPU_ARGUMENTS,
        *flags.argument("QUANTIZATION", "fp8"),
        *(each for name in KERNELS for each in flags.argument("QUANTIZATION", name)),
        *flags.argument("CHAT_TEMPLATE", "x.jinja"),
    ]
    assert flags.parse(written).load_format == "auto"


def test_aliases_are_flags(flags):
    """Or have no name in SGLang."""
    assert {row.sglang for row in ALIASES if row.sglang} - flags.names == set()


def test_vllms_names_set_sglangs_flags(flags):
    """An environment that was made for vLLM serves SGLang; the values are converted."""
    environ = {
        "DTYPE": "bf16",
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
        "LIMIT_MM_PER_PROMPT": '{"image": 2}',
        "RUNNER": "pooling",
        "ENABLE_AUTO_TOOL_CHOICE": "true",
        "TOOL_CALL_PARSER": "llama3_json",
        "REASONING_PARSER": "deepseek_r1",
        "ENABLE_PROMPT_TOKENS_DETAILS": "true",
        "MAX_LORAS": "3",
        "MAX_CPU_LORAS": "6",
    }
    assert environ.keys() == {row.vllm for row in ALIASES}
    parsed = vars(flags.parse(["--model-path=m", *flags.from_aliases("sglang", environ)]))
    expected = {
        "dtype": "bfloat16",
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
        "limit_mm_data_per_request": {"image": 2},
        "is_embedding": True,
        "tool_call_parser": "llama3",
        "reasoning_parser": "deepseek-r1",
        "enable_cache_report": True,
        "max_loras_per_batch": 3,
        "max_loaded_loras": 6,
    }
    assert {name: parsed[name] for name in expected} == expected


def test_parsers_that_are_renamed_exist(flags):
    """SGLang's column of both tables."""
    choices = {name: set(flags._actions[name].choices) for name in PARSERS}
    assert {name: set(PARSERS[name].values()) - choices[name] for name in PARSERS} == {
        "TOOL_CALL_PARSER": set(),
        "REASONING_PARSER": set(),
    }


PARSERS = {"TOOL_CALL_PARSER": TOOL_CALL_PARSERS, "REASONING_PARSER": REASONING_PARSERS}


def test_sglangs_own_values_are_not_renamed(flags):
    renamed = {
        value: made
        for row in ALIASES
        for value in (row.sglang and flags._actions[row.sglang].choices) or ()
        if (made := row.convert("sglang", row.sglang, value)) != value
    }
    assert renamed == {}


def test_speculative_algorithms_and_flags_exist(flags):
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
def test_the_flags_become_a_memory_demand(flags, given, expected):
    """Weights, over some GPUs, in a fraction of their memory."""
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


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["params.json", "consolidated.safetensors"], ["--model-config-parser=mistral"]),
        (["config.json", "model.safetensors", "params.json", "consolidated.safetensors"], []),
    ],
    ids=["alone", "both"],
)
def test_mistrals_own_format_is_named_because_a_folder_has_no_name(
    tmp_path, flags, files, expected
):
    """SGLang goes by the name of the repository."""
    for name in files:
        (tmp_path / name).write_text("{}")
    model = ResolvedModel(tmp_path, "org/m", None, "a local folder")
    settings = load_settings({"MODEL_NAME": str(tmp_path), "ENGINE": "sglang"})
    arguments = worker_arguments(settings, model, flags, "INFO")
    assert [each for each in arguments if "parser" in each] == expected
    assert flags.parse(arguments).model_config_parser == ("mistral" if expected else "auto")


def test_harmony_reads_the_vocabulary_from_the_folder_in_its_variable(tmp_path):
    """Without the variable the package downloads it."""
    code = (
        "import openai_harmony as o\n"
        "o.load_harmony_encoding(o.HarmonyEncodingName('HarmonyGptOss'))\n"
    )
    (tmp_path / FILE).write_text("no vocabulary")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(**{VARIABLE: str(tmp_path)}),
        capture_output=True,
        text=True,
    )
    assert "invalid tiktoken vocab file" in done.stderr


def test_sigquit_of_a_failed_process_is_the_engines_death(tmp_path):
    """Its default would end the worker."""
    (tmp_path / "config.json").write_text("{}")
    environ = {"MODEL_NAME": str(tmp_path), "ENGINE": "sglang"}
    settings = load_settings(environ)
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


@pytest.mark.parametrize(
    ("since_freeze", "watchdog_timeout", "is_alive"),
    [(math.inf, 300.0, False), (301.0, 300.0, False), (299.0, 300.0, True), (59.0, 5.0, True)],
)
def test_sigquit_soon_after_a_freeze_is_not_the_engines_death(
    tmp_path, monkeypatch, since_freeze, watchdog_timeout, is_alive
):
    """But that of SGLang's watchdog, see the next test; a second one comes if a step does hang."""
    (tmp_path / "config.json").write_text("{}")
    environ = {"MODEL_NAME": str(tmp_path), "ENGINE": "sglang"}
    settings = load_settings(environ)
    adapter = SglangAdapter(settings, resolve_model(settings), environ)
    adapter._args = SimpleNamespace(watchdog_timeout=watchdog_timeout)
    clock = SimpleNamespace(seconds_since_freeze=since_freeze)
    monkeypatch.setattr(sglang_adapter, "awake_clock", clock)
    adapter._on_sigquit(signal.SIGQUIT, None)
    alive = adapter._alive(SimpleNamespace(get_all_child_pids=list))
    assert alive() == is_alive


@pytest.mark.parametrize(
    ("counters", "expected"),
    [([1, 1], [signal.SIGQUIT]), ([1, 2], [])],
    ids=["the step goes on after the freeze", "the next step has begun"],
)
def test_the_watchdog_counts_the_frozen_time(monkeypatch, counters, expected):
    """In the step in which it last looked. Between steps it does not."""
    from sglang.srt.utils import watchdog

    class Done(Exception):
        pass

    def pause(seconds):
        if seconds == 150 and not counters:  # before a third look
            raise Done

    sent, counters = [], [*counters]
    clock = iter([0.0, 1.0, 400.0])
    time = SimpleNamespace(perf_counter=lambda: next(clock), sleep=pause)
    monkeypatch.setattr(watchdog, "time", time)
    monkeypatch.setattr(watchdog, "pyspy_dump_schedulers", lambda: None)
    scheduler = SimpleNamespace(
        debug_name="Scheduler",
        get_counter=lambda: counters.pop(0),
        is_active=lambda: True,
        watchdog_timeout=300,
        soft=False,
        dump_info=None,
        parent_process=SimpleNamespace(send_signal=sent.append),
    )
    with contextlib.suppress(Done):
        watchdog.WatchdogRaw._watchdog_once(scheduler)
    assert sent == expected


# The worker's name of a method → quantization_config. For ModelOpt SGLang ignores the user's name,
# or finds out later that it is wrong.
CHECKPOINTS = {
    "awq": {"quant_method": "awq", "bits": 4},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
    "fp8": {"quant_method": "fp8"},
    "compressed-tensors": {"quant_method": "compressed-tensors"},
    "mxfp4": {"quant_method": "mxfp4"},
    "mxfp8": {"quant_method": "mxfp8"},
}


@pytest.mark.parametrize("method", CHECKPOINTS)
def test_quantization_names_that_sglang_accepts_are_of_the_checkpoints_family(flags, method):
    """And those that choose a kernel are handed on to it."""
    from sglang.srt.configs.model_config import ModelConfig

    accepted = set()
    for name in (*flags.choices("QUANTIZATION"), "marlin"):
        config = SimpleNamespace(
            quantization=name,
            is_draft_model=False,
            _parse_quant_hf_config=lambda: dict(CHECKPOINTS[method]),
            _find_quant_modelslim_config=lambda: None,
        )
        with contextlib.suppress(ValueError):
            ModelConfig._verify_quantization(config)
            accepted.add(name)
    assert accepted
    assert [name for name in sorted(accepted) if not method_matches(name, method)] == []


TEMPLATE = "{% for message in messages %}\n<|{{ message.role }}|>{{ message.content }}{% endfor %}é"


@pytest.mark.parametrize("suffix", ["", ".txt"], ids=["text", "file"])
def test_template_manager_reads_a_template_that_it_gets_as_a_file(tmp_path, suffix):
    """Whatever the user's file is called; it is there only while the engine starts."""
    value = TEMPLATE
    if suffix:
        path = tmp_path / f"chat{suffix}"
        path.write_text(TEMPLATE, encoding="utf-8")
        value = str(path)
    adapter = SglangAdapter(
        load_settings({"CUSTOM_CHAT_TEMPLATE": value}), SimpleNamespace(name="m"), {}
    )
    adapter._args = SimpleNamespace(chat_template=value)
    adapter._check_chat_template()
    manager = SimpleNamespace(tokenizer=SimpleNamespace(chat_template=None))
    with adapter._chat_template_file():
        found("parser.template_manager", "TemplateManager")()._load_explicit_chat_template(
            manager, adapter._args.chat_template
        )
    assert manager.tokenizer.chat_template == TEMPLATE
    assert not Path(adapter._args.chat_template).exists()


def test_template_manager_knows_some_templates_by_name():
    adapter = SglangAdapter(
        load_settings({"CUSTOM_CHAT_TEMPLATE": "chatml"}), SimpleNamespace(name="m"), {}
    )
    adapter._args = SimpleNamespace(chat_template="chatml")
    adapter._check_chat_template()
    assert adapter._args.chat_template == "chatml"
    adapter._args.chat_template = "chatnl"
    with pytest.raises(InvalidSetting) as raised:
        adapter._check_chat_template()
    assert str(raised.value) == ("CUSTOM_CHAT_TEMPLATE='chatnl' is neither a file nor a template.")


# ---- a running engine


def test_running_off_the_main_thread_installs_no_signal_handler(seen):
    """The worker's own stay: SIGTERM, SIGINT, and the adapter's of SIGQUIT."""
    assert seen["new_signal_handlers"] == []


def test_running_read_capacity(seen):
    """Sequences and KV cache of CPU_ARGUMENTS, and the context."""
    assert seen["capacity"] == {
        "max_sequences": 64,
        "kv_cache_tokens": 16384,
        "max_model_tokens": 8192,
    }


def test_running_read_tokenizer_manager(seen):
    """What is read with LoRA adapters only, or at the stop."""
    assert (seen["alive"], seen["generates"]) == (True, True)
    assert seen["internals"] == {
        "lora_registry": "LoRARegistry",
        "asyncio_tasks": ["Task"],
        "_subprocess_watchdog": "SubprocessWatchdog",
        "server_status": "Up",
    }


def test_running_model_list_has_no_path_and_all_names(seen):
    """SGLang knows the first name, and the worker translates the others."""
    name = "smollm2-135m-instruct-bf16"
    assert seen["models"] == [name]
    assert seen["roots"] == {name: name, "small": "small"}


def test_running_each_route_is_allowed_or_refused_on_purpose(seen):
    """Those of the app as it runs, too."""
    assert [path for path in seen["paths"] if not is_decided(path)] == []
    assert {"/v1/chat/completions", "/v1/models"} <= set(seen["paths"])


def test_running_the_fields_of_a_route_are_found(seen):
    """From the annotations of its FastAPI routes; the tables of `handler/request` know them."""
    fields = ENGINE_FIELDS["sglang"]
    assert seen["fields"] == {path: sorted(names) for path, names in fields.items()}


def test_running_a_stream_that_is_left_is_aborted(seen):
    """In the tokenizer manager, which waits for the scheduler, and in the scheduler's gauge."""
    assert (seen["streamed"], seen["open_meanwhile"], seen["running_after"]) == (True, 1, 0)
    assert seen["open_after"] == 0


def test_running_it_stops_in_order(seen):
    """No process is left, and no warning is logged."""
    assert (seen["processes_left"], seen["warnings"]) == ([], [])
