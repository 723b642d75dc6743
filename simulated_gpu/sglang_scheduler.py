"""A simulated engine: a scheduler for SGLang whose model runner computes nothing, at a GPU's pace.

Flags, configuration, scheduling policy, radix cache, allocation of KV cache slots, tokenizer,
detokenizer, parsers and the app are SGLang's own. Weights are not loaded, the KV cache has slots
and no memory, no kernel is compiled and no graph captured. The tables that SGLang keeps on the GPU,
such as the slots of each request, are on the CPU, where its PyTorch code writes them instead of
its Triton kernels. Tokens are drawn instead of sampled, or follow a given text. Not simulated:
logprobs, grammars, LoRA adapters, speculation, embeddings, several ranks.

SGLang finds it as a plugin (`sglang_site`), in the process of each rank. Variables:

    SIMULATED_STEP_MS                   duration of a decode step (12)
    SIMULATED_STEP_US_PER_SEQUENCE      and for each sequence in it (0)
    SIMULATED_PREFILL_TOKENS_PER_SECOND (30000)
    SIMULATED_LOAD_SECONDS              for the weights (0)
    SIMULATED_KV_CACHE_GIB              memory for the KV cache, where no flag says it (40)
    SIMULATED_WEIGHTS_GIB               in place of it: what the weights take of the share that
                                        MEM_FRACTION_STATIC is
    SIMULATED_GRAPH_GIB                 memory for the CUDA graphs, beside that share (0)
    SIMULATED_TOKENS                    JSON list of token ids: the answer to every request, which
                                        then ends with the end-of-sequence token
"""

import json
import os
import random
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.tp_worker import TpModelWorker
from sglang.srt.managers.utils import GenerationBatchResult
from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator, TokenToKVPoolAllocator
from sglang.srt.mem_cache.memory_pool import KVCache, ReqToTokenPool
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.model_executor.model_runner_components.layer_setup import ModelLayerInfo
from sglang.srt.model_executor.pool_configurator import MemoryPoolConfig
from sglang.srt.model_executor.runner_backend_utils import CUDA_GRAPH_CAPTURE_FAILED_MSG
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.runtime_context import get_context, get_parallel, get_schedule

from simulated_gpu.torch_cuda import MISSING_MIB, free_memory, out_of_memory

GIB = 1 << 30
MAX_REQUESTS = 2048  # SGLang's own least number where no flag says it
SPECIAL_TOKENS = 8  # at the end of a vocabulary, not drawn


def register() -> None:
    """Replace SGLang's scheduler; SGLang calls it in each of its processes."""
    HookRegistry.register(
        "sglang.srt.managers.scheduler.Scheduler", SimulatedScheduler, HookType.REPLACE
    )


class TimedEvent:
    """The end of a step on the GPU, known beforehand."""

    def __init__(self, due: float) -> None:
        self._due = due

    def record(self) -> None:
        """Do nothing: the time is set when the event is made."""

    def query(self) -> bool:
        return time.perf_counter() >= self._due

    def synchronize(self) -> None:
        time.sleep(max(0.0, self._due - time.perf_counter()))


class SimulatedScheduler(Scheduler):
    """SGLang's scheduler with its tables on the CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _use_tables_on_the_cpu()
        super().__init__(*args, **kwargs)

    def init_tp_model_worker(self) -> None:
        self.tp_worker = SimulatedWorker(
            server_args=self.server_args, gpu_id=0, nccl_port=self.nccl_port
        )

    def run_batch(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().run_batch(batch, *args, **kwargs)
        result.copy_done = self.tp_worker.step
        return result


class SimulatedWorker(TpModelWorker):
    """A rank whose steps take their time and no CPU."""

    def __init__(self, **kwargs: Any) -> None:
        setting = os.environ.get
        self._step_seconds = float(setting("SIMULATED_STEP_MS", "12")) / 1000
        self._sequence_seconds = float(setting("SIMULATED_STEP_US_PER_SEQUENCE", "0")) / 1e6
        self._prefill_rate = float(setting("SIMULATED_PREFILL_TOKENS_PER_SECOND", "30000"))
        self._free_at = 0.0
        self.step = TimedEvent(0.0)
        super().__init__(**kwargs)
        self._answer: Sequence[int] | None = json.loads(setting("SIMULATED_TOKENS", "null"))
        self._answered_tokens: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._end_token = min(self.model_config.hf_eos_token_id or {0})
        self._random = random.Random(0)  # the same tokens in each run

    def _init_model_runner(self) -> None:
        self._model_runner = SimulatedModelRunner(
            model_config=self.model_config,
            mem_fraction_static=get_schedule().mem_fraction_static,
            gpu_id=self.gpu_id,
            nccl_port=self.nccl_port,
            server_args=self.server_args,
        )

    def get_pad_input_ids_func(self) -> None:
        """Return no function: no model is loaded."""

    def forward_batch_generation(self, batch: Any, *_: Any, **__: Any) -> GenerationBatchResult:
        prefill_tokens = batch.extend_num_tokens or 0 if batch.forward_mode.is_extend() else 0
        begin = max(time.perf_counter(), self._free_at)
        step = self._step_seconds + self._sequence_seconds * len(batch.reqs)
        self._free_at = begin + step + prefill_tokens / self._prefill_rate
        self.step = TimedEvent(self._free_at)
        is_prefill = batch.forward_mode.is_extend()
        tokens = [self._next_token(request, is_prefill=is_prefill) for request in batch.reqs]
        return GenerationBatchResult(
            logits_output=LogitsProcessorOutput(next_token_logits=None),
            next_token_ids=torch.tensor(tokens, dtype=torch.int64),
        )

    def _next_token(self, request: Any, *, is_prefill: bool) -> int:
        if self._answer is None:
            return self._random.randrange(self.model_config.vocab_size - SPECIAL_TOKENS)
        # The scheduler ignores the token of a prompt's chunk that is not the last.
        answered = len(request.output_ids) if is_prefill else self._answered_tokens[request]
        self._answered_tokens[request] = answered + 1
        return self._answer[answered] if answered < len(self._answer) else self._end_token


class SimulatedModelRunner(ModelRunner):
    """A model runner without weights, whose KV cache has slots and no memory.

    MLX's runner in SGLang (`hardware_backend/mlx/model_runner_stub.py`) replaces the same methods.
    """

    canary_manager = None
    prefill_aware_swa = False
    preloaded_weights_bytes = 0

    def init_torch_distributed(self) -> None:
        self.pre_model_load_memory = free_memory() / GIB
        self.pp_group = get_parallel().pp_group

    def initialize(self) -> None:
        time.sleep(float(os.environ.get("SIMULATED_LOAD_SECONDS", "0")))
        config = self.model_config
        self.model, self.sampler = torch.nn.Identity(), None
        self.dtype = self.kv_cache_dtype = config.dtype
        self.weight_load_mem_usage = 0
        self.sliding_window_size = None
        self.is_hybrid_swa = False
        layers = config.num_hidden_layers
        self.layer_info = ModelLayerInfo(
            start_layer=0, end_layer=layers, num_effective_layers=layers
        )

    def alloc_memory_pool(self, memory_pool_config: Any = None, **_: Any) -> None:
        tokens = self._kv_cache_tokens()
        MemoryPoolConfig(tokens)  # raises SGLang's error without room for a token
        self.max_total_num_tokens = tokens
        self.max_running_requests = min(
            get_schedule().max_running_requests or MAX_REQUESTS, tokens // 2
        )
        self.req_to_token_pool = ReqToTokenPool(
            size=self.max_running_requests,
            max_context_len=self.model_config.context_len,
            device=self.device,
            enable_memory_saver=False,
        )
        self.token_to_kv_pool = WithoutMemory(tokens, self.page_size, self.dtype)
        allocator: dict[str, Any] = {
            "dtype": self.dtype,
            "device": self.device,
            "kvcache": self.token_to_kv_pool,
            "need_sort": False,
        }
        if self.page_size == 1:
            self.token_to_kv_pool_allocator = TokenToKVPoolAllocator(tokens, **allocator)
        else:
            self.token_to_kv_pool_allocator = PagedTokenToKVPoolAllocator(
                tokens, page_size=self.page_size, **allocator
            )
            self.token_to_kv_pool_allocator.use_triton_kernels = False
        self.init_ngram_embedding_manager()
        self.attn_backend = self.decode_cuda_graph_runner = None

    def _kv_cache_tokens(self) -> int:
        if get_schedule().max_total_tokens:
            return int(get_schedule().max_total_tokens)
        config, ranks = self.model_config, get_parallel().tp_size
        token_bytes = (
            2 * config.num_hidden_layers * config.get_num_kv_heads(ranks) * config.head_dim * 2
        )
        gib = float(os.environ.get("SIMULATED_KV_CACHE_GIB", "40"))
        if weights := os.environ.get("SIMULATED_WEIGHTS_GIB"):
            share = free_memory() / GIB * get_schedule().mem_fraction_static
            gib = max(0.0, share - float(weights))
        return int(gib * GIB / token_bytes) // self.page_size * self.page_size

    @property
    def logical_max_total_num_tokens(self) -> int:
        return int(self.req_to_token_pool.schedulable_token_capacity(self.max_total_num_tokens))

    def init_attention_backends(self) -> None:
        """Create no attention backend."""

    def init_cuda_graphs(self, capture_decode_cuda_graph: bool = True) -> None:
        """Capture no CUDA graph, but fail as SGLang does where they do not fit."""
        left = free_memory() / GIB * (1 - get_schedule().mem_fraction_static)
        if left < float(os.environ.get("SIMULATED_GRAPH_GIB", "0")):
            error = out_of_memory(MISSING_MIB)
            raise Exception(f"Capture cuda graph failed: {error}\n{CUDA_GRAPH_CAPTURE_FAILED_MSG}")

    def prewarm_sampling(self) -> None:
        """Sample no token: tokens are drawn."""


class WithoutMemory(KVCache):
    """A KV cache of which only the slots exist."""

    def __init__(self, size: int, page_size: int, dtype: torch.dtype) -> None:
        self.size, self.page_size = size, page_size
        self.dtype = self.store_dtype = dtype
        self.device = "cpu"
        self.layer_num = self.start_layer = self.end_layer = self.mem_usage = 0
        self.layer_transfer_counter = self.custom_mem_pool = None
        self.enable_custom_mem_pool = False

    def get_key_buffer(self, layer_id: int) -> torch.Tensor:
        raise RuntimeError("a simulated KV cache has no memory")

    get_value_buffer = get_kv_buffer = set_kv_buffer = get_key_buffer

    def get_kv_size_bytes(self) -> tuple[int, int]:
        return 0, 0


def _use_tables_on_the_cpu() -> None:
    """Let the scheduler's process keep its tables on the CPU, and write them with PyTorch.

    All that was resolved for the GPU stays as it is.
    """
    from sglang.srt.distributed import bootstrap, parallel_state
    from sglang.srt.layers import deep_gemm_wrapper
    from sglang.srt.managers import overlap_utils
    from sglang.srt.mem_cache import allocation

    get_context().override("simulated_gpu", device="cpu")
    parallel_state._group_coordinator_device = lambda local_rank: torch.device("cpu")
    bootstrap._bind_threads_if_cpu = lambda **_: None
    bootstrap._init_cpu_threads_env = lambda **_: None
    deep_gemm_wrapper.update_deep_gemm_config = lambda gpu_id: None  # it asks the driver
    overlap_utils._is_cuda = False  # its pinned memory needs a driver
    allocation.support_triton = lambda backend: False
    allocation.get_last_loc = allocation.get_last_loc_torch
