"""A stand-in for SGLang's kernels, of which no CPU build can be installed.

SGLang 0.5.23 imports the names below wherever there is no GPU. What its plain PyTorch backends
call on the way of a request is done here in PyTorch; what only speculation calls says that it
cannot.
"""

import torch


def assign_req_to_token_pool_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    _pool_len: int,
) -> None:
    """Write each request's new cache locations, which lie one after the other, into its row."""
    taken = 0
    rows, starts, ends = (t.tolist() for t in (req_pool_indices, start_offset, end_offset))
    for row, start, end in zip(rows, starts, ends, strict=True):
        count = end - start
        req_to_token[row, start:end] = out_cache_loc[taken : taken + count].to(req_to_token.dtype)
        taken += count


def copy_all_layer_kv_cache_cpu(*_: object) -> None:
    """Not here: what moves KV cache entries after a speculative step."""
    raise NotImplementedError("this stand-in for sgl_kernel has no speculation")


assign_draft_cache_locs_contiguous_cpu = copy_all_layer_kv_cache_cpu
assign_extend_cache_locs_cpu = copy_all_layer_kv_cache_cpu
fill_bonus_tokens_cpu = copy_all_layer_kv_cache_cpu
fill_accept_out_cache_loc_cpu = copy_all_layer_kv_cache_cpu
build_tree_kernel_efficient_cpu = copy_all_layer_kv_cache_cpu
verify_tree_greedy_cpu = copy_all_layer_kv_cache_cpu
rotate_input_ids_cpu = copy_all_layer_kv_cache_cpu
