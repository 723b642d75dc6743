"""What the worker replaces in vLLM, and which internal names it reads.

tests/contract/test_vllm.py has a test for each row. All rows are needed since 0.32.0, the first
version that the worker supports.

Replaced by `apply` before the engine starts, and by `prepare_app`:

v1.engine.output_processor.RequestState, v1.engine.async_llm.RequestOutputCollector
    A stream's tokens are merged until its next flush is due, before vLLM makes an output of each:
    1.7 times the tokens/s and 0.7 of the CPU per token at 192 streams (docs/benchmarks.md). Until
    vLLM merges by time: its `stream_interval` counts tokens. 24 are as fast, but then a
    stream of 30 tokens/s is flushed every 0.8 s.
v1.engine.utils.get_mp_context, on a CPU
    A forked engine core saves a second import of everything: 7 to 11 s from the start to the first
    token in place of 15. Until vLLM's CPU platform no longer forces the start method to spawn.
model_executor.models.registry._run_in_subprocess, on a CPU
    The subprocess that inspects a model class the first time imports everything once more: 11 and
    15 s to the first token in place of 15 and 25. On a GPU it stays, because it keeps CUDA out of
    this process. Until vLLM can inspect in the same process.
entrypoints.openai.models.serving.OpenAIServingModels.show_available_models
    /v1/models shows paths of this machine as `root`. Until it shows names.
app.state.server
    The handler of engine errors sets `should_exit` of vLLM's HTTP server, which does not run here.
    Until vLLM accepts an app without a server.

Subclassed or read, not replaced:

utils.argparse_utils.FlexibleArgumentParser.error (flags.py)
    An error of the parser must raise, not exit.
entrypoints.launchers.cli_args, from 0.33 entrypoints.common.cli_args (flags.py)
    The parser of `vllm serve` is there.
reasoning.ReasoningParserManager, tool_parsers.ToolParserManager,
model_executor.layers.quantization.QUANTIZATION_METHODS (flags.py)
    vLLM checks these names only after the weights are loaded.
v1.worker.cpu_worker.CPUWorker, v1.worker.gpu_worker.Worker (timed_worker.py)
    Their steps are the stages of the start.
Worker.execute_dummy_batch, on a CPU (adapter.py)
    With pipeline parallelism the later stages need tensors of a dry run that vLLM skips on a CPU.
process title VLLM::Worker (adapter.py)
    vLLM reports a dead rank late.
AsyncLLM.errored, .vllm_config, .collective_rpc, .model_config.get_diff_sampling_param (adapter.py)
    The engine's death, its capacity, the timings of its workers, limits of answers.
OpenAIServingModels.base_model_paths, .lora_requests (adapter.py)
    The names of the model and its LoRA adapters.
"""

import multiprocessing
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from vllm.v1.engine import async_llm, output_processor
from vllm.v1.engine.output_processor import RequestOutputCollector, RequestState

from handler.engine.pacing import FlushGate, Pacer


def apply(pacer: Pacer, *, is_cpu: bool, forks: bool) -> None:
    """Replace names of vLLM in this process; call it once, before the engine is made.

    With `forks` the engine core is a fork of this process on a CPU.
    """
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.model_executor.models import registry
    from vllm.v1.engine import utils

    pace_streams(pacer)
    OpenAIServingModels.show_available_models = _names_only(
        OpenAIServingModels.show_available_models
    )
    if is_cpu:
        registry._run_in_subprocess = lambda inspect: inspect()
        if forks:
            utils.get_mp_context = lambda: multiprocessing.get_context("fork")


def pace_streams(pacer: Pacer) -> None:
    """Merge the tokens of each stream until its next flush is due."""

    def collector(output_kind: Any, request_id: str) -> PacedCollector:
        return PacedCollector(FlushGate(pacer), output_kind, request_id)

    async_llm.RequestOutputCollector = collector
    output_processor.RequestState = PacedState


def prepare_app(app: Any) -> None:
    """Give the app what its error handlers read; `EngineRuntime` notices a dead engine itself."""
    app.state.server = SimpleNamespace(should_exit=False)


def _names_only(show_available_models: Any) -> Any:
    async def replacement(self: Any) -> Any:
        listed = await show_available_models(self)
        for card in listed.data:
            card.root = card.id
        return listed

    return replacement


class PacedState(RequestState):
    """State of a request that makes one output of many tokens."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._pending: list[int] = []  # token ids that are in no output yet

    def make_request_output(
        self,
        new_token_ids: Sequence[int],
        pooling_output: Any,
        finish_reason: Any,
        *rest: Any,
        **named: Any,
    ) -> Any:
        """Return the last output of a stream; the collector takes those before by `take`."""
        queue = self.queue
        if isinstance(queue, PacedCollector) and queue.aggregate and self.detokenizer is not None:
            self._pending += new_token_ids
            if finish_reason is None:
                queue.add_pending(self)
                return None
            queue.discard_pending(self)
            new_token_ids, self._pending = self._pending, []
        return super().make_request_output(
            new_token_ids, pooling_output, finish_reason, *rest, **named
        )

    def take(self) -> Any:
        """Return one output of all tokens since the last one."""
        pending, self._pending = self._pending, []
        return super().make_request_output(pending, None, None, None)


class PacedCollector(RequestOutputCollector):
    """Hands a stream's outputs to its consumer when a flush is due."""

    def __init__(self, gate: FlushGate, output_kind: Any, request_id: str) -> None:
        super().__init__(output_kind, request_id)
        self.ready: FlushGate = gate
        self._pending: dict[PacedState, None] = {}  # in order; several states where n > 1

    def add_pending(self, state: PacedState) -> None:
        """Take the state's tokens at the next flush."""
        if state not in self._pending:
            self._pending[state] = None
            self.ready.set()

    def discard_pending(self, state: PacedState) -> None:
        """The state's last output has all of its tokens."""
        self._pending.pop(state, None)

    def put(self, output: Any) -> None:
        """Hand out at once: the last output, an error, or an output that is not streamed."""
        super().put(output)
        self.ready.open()

    async def get(self) -> Any:
        """Wait for the next flush."""
        while (output := self.get_nowait()) is None:
            await self.ready.wait()
        return output

    def get_nowait(self) -> Any:
        """Return what there is, None before a flush is due."""
        if not self.ready.is_set():
            return None
        pending, self._pending = self._pending, {}
        for state in pending:
            if (output := state.take()) is not None:
                super().put(output)
        self.ready.clear()
        return super().get_nowait()
