"""See the package."""

from sgl_kernel import copy_all_layer_kv_cache_cpu

reconstruct_indices_from_tree_mask = copy_all_layer_kv_cache_cpu
