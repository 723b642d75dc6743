"""Print the names of FlashInfer's modules that SGLang's CUDA build loads for a model, as JSON.

With them come the names of those that the image's build compiles for it.

    python -m tests.gpu.sglang.flashinfer_modules     beside simulated GPUs, in .venv-sglang-cuda

SGLang's own attention backend plans a prompt, a prompt with a cached prefix and a decode step, and
its sampler's functions are called, all with tensors on the CPU.
"""

import json
import os
import sys
from types import SimpleNamespace
from typing import Any

import torch

from handler.engine.sglang.adapter import SglangAdapter
from handler.model.resolve import resolve_model
from handler.settings.environ import load_settings
from tests.support.flashinfer_modules import capture_modules, compiled_modules

TOKENS = 8


def main() -> None:
    environ = dict(os.environ)
    settings = load_settings(environ)
    adapter = SglangAdapter(settings, resolve_model(settings), environ)
    adapter.check_flags()
    loaded = capture_modules()

    from sglang.srt.arg_groups.overrides import model_config_of, resolved_view
    from sglang.srt.runtime_context import publish

    publish(adapter._args, role="scheduler")
    view, model = resolved_view(adapter._args), model_config_of(adapter._args)
    sample(view.sampling_backend)
    if view.attention_backend == "flashinfer":
        attend(adapter._args, model)
    print(json.dumps([sorted(set(loaded)), compiled_modules("sglang", model.model_path)]))


def sample(backend: str) -> None:
    from sglang.srt.layers import sampler

    if backend == "flashinfer":
        probabilities = torch.full((1, TOKENS), 1 / TOKENS)
        sampler.top_k_top_p_sampling_from_probs(probabilities, 4, 0.9, seed=0, offset=0)


def attend(arguments: Any, model: Any) -> None:
    """Plan with SGLang's attention backend."""
    from sglang.srt.layers.attention import flashinfer_backend
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    use_tensors_on_the_cpu()
    backend = flashinfer_backend.FlashInferAttnBackend(model_runner(arguments, model))
    for mode, prefix in ((ForwardMode.EXTEND, 0), (ForwardMode.EXTEND, 4), (ForwardMode.DECODE, 0)):
        backend.init_forward_metadata(forward_batch(mode, prefix))
    values, sums = torch.zeros(1, 1, model.head_dim, dtype=model.dtype), torch.zeros(1, 1)
    flashinfer_backend._safe_merge_state(values, sums, values, sums)


def model_runner(arguments: Any, model: Any) -> SimpleNamespace:
    """Return the attributes of SGLang's model runner that its attention backend reads."""
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

    pool = MHATokenToKVPool(
        size=TOKENS,
        page_size=1,
        dtype=model.dtype,
        head_num=model.get_num_kv_heads(1),
        head_dim=model.head_dim,
        layer_num=1,
        device="cpu",
        enable_memory_saver=False,
        enable_alt_stream=False,
    )
    key, value = pool.get_kv_buffer(0)
    assert key.stride() == value.stride()  # else FlashInfer loads another module as well
    return SimpleNamespace(
        server_args=arguments,
        model_config=model,
        dtype=model.dtype,
        kv_cache_dtype=model.dtype,
        device="cpu",
        page_size=1,
        sliding_window_size=None,
        is_draft_worker=False,
        prefill_attention_backend_str="flashinfer",
        decode_attention_backend_str="flashinfer",
        req_to_token_pool=SimpleNamespace(size=1),
        token_to_kv_pool=pool,
        token_to_kv_pool_allocator=SimpleNamespace(get_kvcache=lambda: pool),
        kv_index_translator=SimpleNamespace(
            reads_are_translated=False, pack_read_stream=lambda *_, **__: None
        ),
    )


def forward_batch(mode: Any, prefix: int) -> SimpleNamespace:
    """Return the attributes of a batch of one request that SGLang's attention backend reads."""
    lengths = torch.tensor([TOKENS], dtype=torch.int32)
    return SimpleNamespace(
        forward_mode=mode,
        out_cache_loc=None,
        seq_lens=lengths,
        seq_lens_cpu=lengths,
        seq_lens_sum=TOKENS,
        req_pool_indices=torch.zeros(1, dtype=torch.int32),
        encoder_lens=None,
        spec_info=None,
        kv_loc_plan=None,
        extend_prefix_lens=torch.tensor([prefix], dtype=torch.int32),
        extend_prefix_lens_cpu=[prefix],
        cross_attention_custom_mask=None,
    )


def use_tensors_on_the_cpu() -> None:
    """Let FlashInfer take tensors of the CPU for the GPU's, in memory that no driver pins."""
    from flashinfer import utils

    empty = torch.empty

    def empty_on_the_cpu(*sizes: Any, pin_memory: bool = False, **more: Any) -> torch.Tensor:
        return empty(*sizes, **more | {"device": "cpu"})

    torch.empty = empty_on_the_cpu
    utils.get_compute_capability = lambda device: torch.cuda.get_device_capability()


if __name__ == "__main__":
    sys.exit(main())
