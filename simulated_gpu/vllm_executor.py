"""A simulated engine: an executor for vLLM that keeps a GPU's pace and computes nothing.

Scheduler, KV cache blocks, prefix cache, tokenizer, detokenizer, parsers and app are vLLM's own.
Only the tokens are drawn instead of sampled, or follow a given text. So it shows what the processes
around a GPU have to do, and that a start with a GPU's configuration succeeds. It says nothing of a
GPU's speed. Variables:

    SIMULATED_STEP_MS                   duration of a decode step (12)
    SIMULATED_STEP_US_PER_SEQUENCE      and for each sequence in it (0)
    SIMULATED_PREFILL_TOKENS_PER_SECOND (30000)
    SIMULATED_LOAD_SECONDS              for the weights (0)
    SIMULATED_KV_CACHE_GIB              memory for the KV cache, where no flag says it (40)
    SIMULATED_ACTIVATION_KIB            of that memory, taken by each token of a step's batch (0)
    SIMULATED_GRAPH_MIB                 of that memory, taken by each CUDA graph (0)
    SIMULATED_OUT_OF_MEMORY             JSON object: a step of the start (weights, compile and
                                        measure memory, graphs) → a value of the configuration → the
                                        largest one with which the memory suffices for that step:
                                        {"graphs": {"max_cudagraph_capture_size": 64}}; it can also
                                        be a number of MiB that is always missing: {"weights": 512}
    SIMULATED_VOCABULARY                tokens are drawn below this id (the model's vocabulary)
    SIMULATED_TOKENS                    JSON list of token ids: the answer to every request, which
                                        then ends with the end-of-sequence token; with `ignore_eos`
                                        it begins anew

A grammar holds: where it forbids the next token, one that it allows comes in its place.
"""

import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import ModelRunnerOutput

from handler.engine.failed_start.report import (
    DEVICE,
    GRAPHS,
    KV_CACHE,
    MEASURE,
    WEIGHTS,
    report_figures,
    reported,
)
from handler.engine.vllm.core_process import core_started
from simulated_gpu.torch_cuda import out_of_memory

GIB = 1 << 30
DRAWN_TOKENS = 65537  # then they repeat; a prime, so that streams differ
FEW_TOKENS = 16  # that a grammar allows where it prescribes the text
MISSING_MIB = 32  # where a value is above its limit; a small model's batch can give that
SPECIAL_TOKENS = 8  # at the end of a vocabulary, not drawn


class TimedResult(Future[Any]):
    """A result that is there from a moment on; nothing runs until then."""

    def __init__(self, due: float, value: object) -> None:
        super().__init__()
        self._due, self._value = due, value

    def done(self) -> bool:
        return time.perf_counter() >= self._due

    def result(self, timeout: float | None = None) -> object:
        time.sleep(max(0.0, self._due - time.perf_counter()))
        return self._value


class Step(NamedTuple):
    """A step that runs: when it ends, and which of its requests then get a token."""

    due: float
    is_sampled: Mapping[str, bool]


class SimulatedExecutor(Executor):
    """All ranks of a model in the core's process; a step takes its time and no CPU."""

    supports_pp = True

    def _init_executor(self) -> None:
        self._limits = json.loads(os.environ.get("SIMULATED_OUT_OF_MEMORY", "{}"))
        self._stage_began = time.time()
        self._timings = [core_started(self._stage_began)]  # as TimedWorker has them
        self._ends_stage("imports of the rank")
        setting = os.environ.get
        self._step_seconds = float(setting("SIMULATED_STEP_MS", "12")) / 1000
        self._sequence_seconds = float(setting("SIMULATED_STEP_US_PER_SEQUENCE", "0")) / 1e6
        self._prefill_rate = float(setting("SIMULATED_PREFILL_TOKENS_PER_SECOND", "30000"))
        self._answer: Sequence[int] | None = json.loads(setting("SIMULATED_TOKENS", "null"))
        self._tokens = Drawn(
            int(setting("SIMULATED_VOCABULARY", "0"))
            or self.model_config.get_vocab_size() - SPECIAL_TOKENS
        )
        self._end_token = _end_of_sequence(self.model_config.hf_text_config)
        self._prompt_tokens: dict[str, int] = {}
        self._answered_tokens: dict[str, int] = {}
        self._step = Step(due=0.0, is_sampled={})
        self._free_at = 0.0
        self._ends_stage(DEVICE)
        time.sleep(float(setting("SIMULATED_LOAD_SECONDS", "0")))
        self._ends_stage(WEIGHTS)

    # ---- what the start asks of the ranks ----

    def collective_rpc(
        self,
        method: Any,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        non_block: bool = False,
        single_value: bool = False,
    ) -> Any:
        """Answer for all ranks; a method that is not simulated does nothing."""
        simulated = getattr(self, f"_rank_{method}", None) if isinstance(method, str) else None
        answer = simulated(*args) if simulated else None
        result = answer if single_value else [answer] * self.parallel_config.world_size
        return TimedResult(0.0, result) if non_block else result

    def _rank_get_kv_cache_spec(self) -> dict[str, FullAttentionSpec]:
        model, parallel = self.model_config, self.parallel_config
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size or 16,
            num_kv_heads=model.get_num_kv_heads(parallel),
            head_size=model.get_head_size(),
            dtype=kv_cache_dtype_str_to_dtype(self.cache_config.cache_dtype, model),
        )
        layers = range(model.get_num_layers(parallel))
        return {f"model.layers.{layer}.self_attn.attn": spec for layer in layers}

    def _rank_get_supported_kv_cache_layouts(self) -> list[str]:
        return ["NHD", "HND"]

    def _rank_determine_available_memory(self) -> int:
        self._ends_stage(MEASURE)
        setting = os.environ.get
        tokens = self.scheduler_config.max_num_batched_tokens
        activations = tokens * int(setting("SIMULATED_ACTIVATION_KIB", "0")) << 10
        sizes = self.vllm_config.compilation_config.cudagraph_capture_sizes or ()
        graphs = len(sizes) * int(setting("SIMULATED_GRAPH_MIB", "0")) << 20
        free = int(float(setting("SIMULATED_KV_CACHE_GIB", "40")) * GIB) - activations - graphs
        available: int = self.cache_config.kv_cache_memory_bytes or free
        report_figures(available_bytes=available, graph_bytes=graphs)  # as TimedWorker does
        return available

    def _rank_get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def _rank_add_lora(self, request: Any) -> bool:
        return True

    def _rank_start_timings(self) -> list[tuple[str, float, float]]:
        return self._timings

    def _ends_stage(self, name: str) -> None:
        with reported(name):
            self._check_memory(self._limits.get(name, {}))
        began, self._stage_began = self._stage_began, time.time()
        self._timings.append((name, began, self._stage_began - began))

    def _check_memory(self, limits: Mapping[str, int] | int) -> None:
        """Raise torch's error, in its words, if the configuration is above a limit."""
        if isinstance(limits, int):
            raise out_of_memory(limits)
        configs = (self.vllm_config.compilation_config, self.scheduler_config, self.model_config)
        for name, limit in limits.items():
            value = next(getattr(config, name) for config in configs if hasattr(config, name))
            if (value or 0) > limit:
                raise out_of_memory(MISSING_MIB)

    def compile_or_warm_up_model(self) -> None:
        """Compile nothing."""
        self._ends_stage(GRAPHS)

    def initialize_from_config(self, kv_cache_configs: Any) -> None:
        """No memory is taken."""
        self._ends_stage(KV_CACHE)

    def check_health(self) -> None:
        """It cannot fail."""

    # ---- a step ----

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        for request in scheduler_output.finished_req_ids:
            self._prompt_tokens.pop(request, None)
            self._answered_tokens.pop(request, None)
        computed = {}
        for new in scheduler_output.scheduled_new_reqs:
            self._prompt_tokens[new.req_id] = len(new.prompt_token_ids or ())
            computed[new.req_id] = new.num_computed_tokens
        running = scheduler_output.scheduled_cached_reqs
        computed |= dict(zip(running.req_ids, running.num_computed_tokens, strict=True))
        is_sampled = {}
        prefill_tokens = 0
        for request, scheduled in scheduler_output.num_scheduled_tokens.items():
            prompt = self._prompt_tokens[request]
            prefill_tokens += max(0, min(scheduled, prompt - computed[request]))
            is_sampled[request] = computed[request] + scheduled >= prompt
        due = max(time.perf_counter(), self._free_at)
        if is_sampled:
            due += self._step_seconds + prefill_tokens / self._prefill_rate
            due += self._sequence_seconds * len(is_sampled)
        self._free_at = due
        self._step = Step(due, is_sampled)
        output = None if is_sampled else _output({})  # sample_tokens gives that of a step
        return TimedResult(0.0, output) if non_block else output

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        masks = {}
        if grammar_output is not None:
            constrained = grammar_output.structured_output_request_ids
            masks = dict(zip(constrained, grammar_output.grammar_bitmask, strict=True))
        sampled = {
            request: [self._next_token(request, masks.get(request))] if is_sampled else []
            for request, is_sampled in self._step.is_sampled.items()
        }
        result = TimedResult(self._step.due, _output(sampled))
        return result if non_block else result.result()

    def take_draft_token_ids(self) -> None:
        """There is no draft model."""

    def _next_token(self, request: str, mask: np.ndarray | None) -> int:
        if self._answer is None:
            token = self._tokens.draw()
        else:
            index = self._answered_tokens.get(request, 0)
            self._answered_tokens[request] = (index + 1) % (len(self._answer) + 1)
            token = self._answer[index] if index < len(self._answer) else self._end_token
        return token if mask is None else _allowed_token(mask, token, self._end_token)

    def shutdown(self) -> None:
        """Release nothing."""

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        return True


class Drawn:
    """Token ids from a fixed seed, the same in each run."""

    def __init__(self, vocabulary: int) -> None:
        source = random.Random(0)
        self._tokens = [source.randrange(vocabulary) for _ in range(DRAWN_TOKENS)]
        self._next = 0

    def draw(self) -> int:
        self._next = (self._next + 1) % DRAWN_TOKENS
        return self._tokens[self._next]


def _output(sampled: Mapping[str, list[int]]) -> ModelRunnerOutput:
    return ModelRunnerOutput(
        req_ids=list(sampled),
        req_id_to_index={request: index for index, request in enumerate(sampled)},
        sampled_token_ids=list(sampled.values()),
    )


def _allowed_token(mask: np.ndarray, *preferred: int) -> int:
    """Return the first of these tokens that a grammar allows, else another that it allows.

    Where few are allowed they begin the same text: the last of the vocabulary is the longest. Where
    any text is allowed, the first of the vocabulary is a printable character.

    Args:
        mask: one bit a token, 32 in each element.
    """
    bits = np.unpackbits(np.ascontiguousarray(mask).view(np.uint8), bitorder="little")
    for token in preferred:
        if bits[token]:
            return token
    allowed = bits.nonzero()[0]
    return int(allowed[-1 if len(allowed) <= FEW_TOKENS else 0])


def _end_of_sequence(config: Any) -> int:
    """Return the token that ends an answer; 0 where only generation_config.json has it."""
    token: int | list[int] | None = getattr(config, "eos_token_id", None)
    return token[0] if isinstance(token, list) else token or 0
