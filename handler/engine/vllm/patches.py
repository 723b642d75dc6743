"""What the worker replaces in vLLM, and which internal names it reads.

tests/contract/test_vllm.py has a test for each row. All rows are needed since 0.32.0; older
versions were not checked.

Replaced by `apply` before the engine starts, by the rank before it loads weights, and by
`prepare_app`:

v1.engine.output_processor.RequestState, v1.engine.async_llm.RequestOutputCollector
    A stream's tokens are merged until its next flush is due, before vLLM makes an output of each:
    1.7 times the tokens/s and 0.7 of the CPU per token at 192 streams (docs/benchmarks.md). Until
    vLLM merges by time: its `stream_interval` counts tokens. 24 are as fast, but then a
    stream of 30 tokens/s is flushed every 0.8 s.
    A request that the engine core ends by itself fails. Until vLLM does not end it as complete.
v1.engine.core.StructuredOutputManager
    The core compiles each constraint with the backend that it was checked for, and none for a
    request that was aborted meanwhile (grammars.py). Until vLLM's core has several backends.
parser.ParserManager.get_parser
    The class that it returns parses a flush token by token (token_parser.py), and the request
    states record where each token's text ends (parsed_streams.py). Many parsers lose calls where a
    delta has several tokens. Until all of vLLM's parsers take deltas of any size.
v1.engine.utils.get_mp_context, on a CPU
    A forked engine core saves a second import of everything: 7 to 11 s from the start to the first
    token in place of 15. Until vLLM's CPU platform no longer forces the start method to spawn.
model_executor.models.registry._run_in_subprocess, on a CPU
    The subprocess that inspects a model class the first time imports everything once more: 11 and
    15 s to the first token in place of 15 and 25. On a GPU it stays, because it keeps CUDA out of
    this process. Until vLLM can inspect in the same process.
model_executor.kernels.linear.CPUWNA16LinearKernel, on a processor without AVX-512 (dequantized.py)
    vLLM's build for it has no kernel for 4-bit weights, and the engine dies at its first token.
    Until it has one, or refuses such a model.
entrypoints.openai.models.serving.OpenAIServingModels.show_available_models
    /v1/models shows paths of this machine as `root`. Until it shows names.
humming.ops.utils, humming.utils.nvrtc, on a GPU
    Imported without the two processes that each starts: they import torch to find that the package
    has the built library already, and take 3 s of a start on two cores. Until the package looks
    first.
v1.executor.multiproc_executor.time, distributed.device_communicators.shm_broadcast.time,
MultiprocExecutor._init_executor, in a core with several ranks that is a fork (rank_timeout.py)
    A freeze within a step, longer than VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS, would end the core.
    Until that timeout does not count a freeze.
handlers of the logger `vllm` (error_log.py)
    Each running request would log the traceback of the engine core's death: thousands of lines.
    Until vLLM logs it once.
app.state.server
    The handler of engine errors sets `should_exit` of vLLM's HTTP server, which does not run here.
    Until vLLM accepts an app without a server.

Subclassed or read, not replaced:

utils.argparse_utils.FlexibleArgumentParser.error (flags.py)
    An error of the parser must raise, not exit. Until vLLM's parser can raise.
entrypoints.launchers.cli_args, from 0.33 entrypoints.common.cli_args (flags.py)
    The parser of `vllm serve` is there. Until it is a public name.
reasoning.ReasoningParserManager, tool_parsers.ToolParserManager,
model_executor.layers.quantization.QUANTIZATION_METHODS (flags.py)
    vLLM checks these names only after the weights are loaded. Until it checks them before.
v1.engine.detokenizer.BaseIncrementalDetokenizer (parsed_streams.py)
    It is fed token by token; `output_text` and `stop_buffer_length` are read. Until `get_parser`
    is no longer replaced, like the next three.
v1.engine.detokenizer.FastIncrementalDetokenizer: .stream, .tokenizer, .output_text, .token_ids,
.stop, .spaces_between_special_tokens, .include_stop_str_in_output (merged_detokenizer.py)
    It is given the tokens of a flush at once. Until vLLM merges by time.
outputs.RequestOutput, .CompletionOutput (parsed_streams.py)
    An output is split if its parser makes several deltas of it.
parser.abstract_parser: DelegatingParser._stream_state.reasoning_ended, ._engine_based,
.extract_tool_calls_streaming
    The first two tell whether text is content without parsing; then it is not split. The third is
    where vLLM counts the calls of a parser: once per delta, as before (token_parser.py).
entrypoints.generate.base.protocol.DeltaMessage (token_parser.py)
    The deltas of several tokens are merged.
v1.worker.cpu_worker.CPUWorker, v1.worker.gpu_worker.Worker (timed_worker.py)
    Their steps are the stages of the start. Until vLLM reports how long each takes.
Worker.execute_dummy_batch, on a CPU (adapter.py)
    With pipeline parallelism the later stages need tensors of a dry run that vLLM skips on a CPU.
    Until it does not skip it.
v1.core.kv_cache_utils: the texts of a KV cache that does not fit (out_of_memory.py);
Worker.cudagraph_memory_estimate (timed_worker.py), AsyncEngineArgs.create_engine_config
(configuration.py)
    What the memory of a start lacked, and what it was started with. Until vLLM reports the reason
    and the sizes of a failed start to its caller. Tests: tests/contract/test_vllm_memory.py.
v1.engine.core.EngineCoreProc.run_engine_core (failed_start/report.py)
    It raises what ends the core, so that the process can report it. Until the error in the worker's
    process has the core's own.
process title VLLM::Worker (adapter.py)
    vLLM reports a dead rank late. Until it does so within a second.
AsyncLLM.errored, .vllm_config, .collective_rpc, .model_config.get_diff_sampling_param (adapter.py)
    The engine's death, its capacity, the timings of its workers, limits of answers. Until public
    names have them.
OpenAIServingModels.base_model_paths, .lora_requests (adapter.py)
    The names of the model and its LoRA adapters. Until a public name has them.
"""

import multiprocessing
import os
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from vllm.v1.engine import async_llm, output_processor

from handler.engine.pacing import FlushGate, Pacer
from handler.engine.vllm import grammars
from handler.engine.vllm.error_log import log_one_traceback
from handler.engine.vllm.paced_streams import PacedCollector, PacedState
from handler.settings.environ import export

HUMMING_BUILDS = "HUMMING_DISABLE_PARALLEL_BUILD"


def apply(pacer: Pacer, *, is_cpu: bool, forks: bool) -> None:
    """Replace names of vLLM in this process; call it once, before the engine is made.

    With `forks` the engine core is a fork of this process, on a CPU too.
    """
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.model_executor.models import registry
    from vllm.v1.engine import utils

    grammars.use_in_core()
    pace_streams(pacer)
    parse_by_token(pacer)
    OpenAIServingModels.show_available_models = _names_only(
        OpenAIServingModels.show_available_models
    )
    if not is_cpu:
        import_humming()
    if is_cpu:
        registry._run_in_subprocess = lambda inspect: inspect()
        if forks:
            utils.get_mp_context = lambda: multiprocessing.get_context("fork")


def import_humming() -> None:
    """Import vLLM's library of kernels, Humming, without its builds in the background.

    What is missing is built at its first use. The variable that prevents them also limits the
    compilers of the ranks, so it is set for the import only.
    """
    modules = ("humming.ops.utils", "humming.utils.nvrtc")
    if find_spec("humming") is None or HUMMING_BUILDS in os.environ:
        return
    export({HUMMING_BUILDS: "1"})
    try:
        for module in modules:
            import_module(module)
    finally:
        export({}, remove=[HUMMING_BUILDS])


def pace_streams(pacer: Pacer) -> None:
    """Merge the tokens of each stream until its next flush is due."""
    _stream_with(PacedState, PacedCollector, pacer)


def parse_by_token(pacer: Pacer) -> None:
    """Feed parsers token by token; a worker without a parser stays as it is."""
    from vllm.parser import ParserManager

    from handler.engine.vllm.parsed_streams import ParsedCollector, ParsedState
    from handler.engine.vllm.token_parser import token_parser

    get_parser = ParserManager.get_parser

    def replacement(*args: Any, **named: Any) -> Any:
        parser_cls = get_parser(*args, **named)
        if parser_cls is None:
            return None
        _stream_with(ParsedState, ParsedCollector, pacer)
        return token_parser(parser_cls)

    ParserManager.get_parser = replacement


def _stream_with(state: type[PacedState], collector: type[PacedCollector], pacer: Pacer) -> None:
    async_llm.RequestOutputCollector = lambda output_kind, request_id: collector(
        FlushGate(pacer), output_kind, request_id
    )
    output_processor.RequestState = state


def prepare_app(app: Any) -> None:
    """Set what happens at the engine's death; `EngineRuntime` notices it itself.

    Call it when the engine runs: its start may configure vLLM's logging anew.
    """
    log_one_traceback()
    app.state.server = SimpleNamespace(should_exit=False)


def _names_only(show_available_models: Any) -> Any:
    async def replacement(self: Any) -> Any:
        listed = await show_available_models(self)
        for card in listed.data:
            card.root = card.id
        return listed

    return replacement
