"""Where installed packages write by default: a scan of their sources, and what is known of it."""

import ast
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

from handler.startup.cache_archive import ARCHIVED_FOLDERS
from handler.startup.compile_cache import CompileCache
from tests.support.environment import clean_environment

# A folder in the user's home or for temporary files, or a function that returns one.
PATTERN = r"""expanduser\(|Path\.home\(|user_cache_dir|XDG_CACHE_HOME|gettempdir\(|["']~/"""
FUNCTIONS = {"home", "user_cache_dir", "gettempdir"}
NOT_PART_OF_AN_ENGINE = {"tests", "test", "testing", "benchmark", "benchmarks", "multimodal_gen"}

# Files whose folder is one of CACHE_FOLDERS.
KEPT = """
    cuda/core/cu12/utils/_cache_dir.py
    cuda/core/cu13/utils/_cache_dir.py
    cudnn/flex_attention/runtime/compile_cache.py
    cudnn/frost/compiled_cache.py
    cudnn/gemm/frost/sm100/compiler.py
    cudnn/gemm/frost/sm120/compiler.py
    cudnn/linear_attention/cake/compiler.py
    cudnn/sdpa/bwd/compact_gqa/_blas.py
    cutile_cache/_env.py
    flash_attn/cute/cache_utils.py
    flashinfer/cute_dsl/sparse/bsa_utils/cache_utils.py
    flashinfer/experimental/b12x/_lib/compiler.py
    flashinfer/experimental/b12x/comm/roce/_proxy.py
    flashinfer/experimental/b12x/loader/_native.py
    flashinfer/jit/env.py
    flashinfer/moe_ep/kernel_src/cutedsl_megamoe/shim/knob_cache.py
    flashinfer/moe_ep/kernel_src/sm100/cutedsl_megamoe/shim/knob_cache.py
    flashinfer/moe_ep/kernel_src/sm107/next_cutedsl_megamoe/shim/knob_cache.py
    flashinfer/moe_ep/kernel_src/sm90/pull_style_cutedsl_megakernel/shim/knob_cache.py
    flashinfer/prims_ts/utils.py
    humming/utils/jit.py
    numba/misc/appdirs.py
    nvidia_cutlass_dsl/dsl_packages/cutlass/base_dsl/cache_helpers.py
    quack/autotuner.py
    quack/cache/jit.py
    sglang/srt/environ.py
    sglang/srt/model_loader/expert_pack_runtime.py
    tilelang/env.py
    tokenspeed_triton/knobs.py
    torch/_appdirs.py
    torch/_inductor/runtime/cache_dir_utils.py
    torch/_inductor/runtime/cutedsl_cache.py
    torch/_vendor/quack/cache/jit.py
    torch/utils/cpp_extension.py
    triton/knobs.py
    tvm_ffi/cpp/extension.py
    vllm/envs.py
    vllm/third_party/fmha_sm100/cute/src/common/aot_cache.py
    vllm/third_party/fmha_sm100/decode_q8kv4/jit.py
    vllm/third_party/fmha_sm100/jit.py
    vllm/third_party/fmha_sm100/prefill_q8kv4/jit.py
    vllm/third_party/tml_fa4/cache_utils.py
    vllm/vllm_flash_attn/cute/cache_utils.py
""".split()
# Why the folder of another file, or of all files of a package, need not be kept.
HARMLESS = {
    "models, data or vocabularies": """
        blobfile botocore datasets fsspec huggingface_hub modelscope modelscope_hub scipy tiktoken
        torch/hub.py transformers
        sglang/srt/model_loader/weight_utils.py vllm/model_executor/model_loader/weight_utils.py
        tilelang/3rdparty/tvm/python/tvm/contrib/download.py
    """,
    "credentials, settings or fonts of a user": """
        InquirerPy PIL aiohttp anthropic matplotlib mcp openai paramiko runpod supervisor typer zmq
        click fastapi_cloud_cli
    """,
    "tools for development and builds": """
        Cython IPython _pytest dill jedi numpy parso pip pkg_resources pyximport setuptools sympy
        ray
        tilelang/3rdparty/tvm/python/tvm/contrib/hexagon/build.py
        tilelang/3rdparty/tvm/python/tvm/contrib/pickle_memoize.py
        tilelang/3rdparty/tvm/python/tvm/contrib/utils.py
        torch/_dynamo/config.py torch/_dynamo/convert_frame.py torch/_dynamo/debug_utils.py
        torch/_inductor/compile_fx_ext.py torch/_inductor/debug.py torch/_inductor/exc.py
        torch/_inductor/wrapper_benchmark.py torch/cuda/_memory_viz.py
        torch/export/_draft_export.py torch/utils/benchmark/utils/common.py
        tokenspeed_triton/experimental/gsan/symmetric_memory.py
        triton/experimental/gsan/symmetric_memory.py
    """,
    "text: grammars and templates": "jinja2 lark outlines vllm/v1/structured_output/utils.py",
    "sessions and sockets of one process": """
        model_hosting_container_standards vllm/config/vllm.py vllm/utils/network_utils.py
        vllm/model_executor/model_loader/weight_cache/protocol.py
        torch/distributed/elastic/agent/server/local_elastic_agent.py
    """,
    "a library of one C++ file, compiled in seconds where symmetric memory is used": """
        sglang/srt/distributed/device_communicators/pynccl_allocator.py
        sglang/srt/utils/cuda_vmm_utils.py
        vllm/distributed/device_communicators/pynccl_allocator.py
    """,
    "other hardware or systems": """
        fastsafetensors torch/backends/xeon/run_cpu.py vllm/models/deepseek_v41/amd/mono/runner.py
        sglang/srt/models/deepseek_common/amd/aiter_intree_tune.py
    """,
    "settings of one machine's disks": "flashinfer/experimental/b12x/loader/_gds_native.py",
    "torch calls nothing of it that writes": """
        torch/_vendor/quack/autotuner.py
    """,
    "sources that are written anew for each process": "torch/_vendor/quack/_compile_payload.py",
    "no engine imports it": """
        flashinfer/data/cutlass/python/CuTeDSL/cutlass/base_dsl/cache_helpers.py
        flashinfer/trace_apply/loaders/python.py tilelang/jit/env.py vllm/snapshot/runtime.py
        torch/_inductor/cache.py
    """,
    "the folder is only named in a message or passed to a probe": """
        flashinfer/attention/kernels/cutile/fmha_decode_bsr_cutile.py torch/_inductor/codecache.py
    """,
}

# A module, and the expression of the folder that it uses. The import comes before the expression.
Paths = Mapping[str, tuple[str, str]]
SHARED: Paths = {
    "inductor": ("torch._inductor.runtime.cache_dir_utils as m", "m.cache_dir()"),
    "inductor's CuTe": ("torch._inductor.runtime.cutedsl_cache as m", "m._cache_dir()"),
    "extensions of torch": ("torch.utils.cpp_extension as m", "m.get_default_build_root()"),
}
TRITON: Paths = {"Triton": ("triton.knobs as m", "m.cache.dir")}
VLLM: Paths = {"vLLM": ("vllm.envs as m", "m.VLLM_CACHE_ROOT")}
SGLANG: Paths = {
    "SGLang": ("sglang.srt.environ as m", "m.envs.SGLANG_CACHE_DIR.get()"),
    "SGLang's kernels": (
        "sglang.kernels.jit.utils.compile.cache as m",
        "m.envs.SGLANG_JIT_CACHE_DIR.get()",
    ),
    "SGLang's CuTe": ("sglang.srt.environ as m", "m.envs.SGLANG_CUTE_AOT_CACHE_DIR.get()"),
    "SGLang's DeepGEMM": ("sglang.srt.environ as m", "m.envs.SGLANG_DG_CACHE_DIR.get()"),
    "SGLang's packs of experts": (
        "sglang.srt.model_loader.expert_pack_runtime as m",
        "m.cache_root()",
    ),
}
CUDA: Paths = {
    "tokenspeed's Triton": ("tokenspeed_triton.knobs as m", "m.cache.dir"),
    "FlashInfer": ("flashinfer.jit.env as m", "m.FLASHINFER_JIT_DIR"),
    "FlashInfer's sources": ("flashinfer.jit.env as m", "m.FLASHINFER_GEN_SRC_DIR"),
    "FlashInfer's cubins": ("flashinfer.jit.env as m", "m.FLASHINFER_CUBIN_DIR"),
    "FlashInfer's autotuner": ("flashinfer.autotune_cache as m", "m.get_default_cache_root()"),
    "FlashInfer's CuTe": ("flashinfer.prims_ts.utils as m", "m.configure_cute_dsl_cache_dir()"),
    "FlashInfer's sparse attention": (
        "flashinfer.cute_dsl.sparse.bsa_utils.cache_utils as m",
        "m.get_cache_path()",
    ),
    "Humming": ("humming.utils.jit as m", "m.get_humming_cache_dir()"),
    "Humming's modules": ("humming.utils.jit as m", "m.get_humming_module_dir()"),
    "quack": ("quack.cache.jit as m", "m.get_cache_path()"),
    "CuTe": ("cutlass.base_dsl.cache_helpers as m", "m.default_generated_ir_path"),
    "flash attention": ("vllm.vllm_flash_attn.cute.cache_utils as m", "m.get_cache_path()"),
    "FA4": ("vllm.third_party.tml_fa4.cache_utils as m", "m.get_cache_path()"),
    "fmha_sm100": ("vllm.third_party.fmha_sm100.jit as m", "m._compute_cache_base()"),
    "cuda-python": ("cuda.core.utils._cache_dir as m", "m._default_cache_dir()"),
    "cuTile": ("cutile_cache._env as m", "m.get_cache_dir_from_env()"),
    "cuDNN's plans": ("cudnn.frost.compiled_cache as m", "m.get_cache_dir()"),
    "cuDNN's GEMM": ("cudnn.gemm.frost.sm100.compiler as m", "m._cache_dir()"),
    "cuDNN's linear attention": ("cudnn.linear_attention.cake.compiler as m", "m.cache_dir()"),
    "cuDNN's flex attention": (
        "cudnn.flex_attention.runtime.compile_cache as m",
        "m.get_cache_path()",
    ),
    "TileLang": ("tilelang.env as m", "m.TILELANG_CACHE_DIR"),
}
B12X: Paths = {
    "FlashInfer's b12x": (
        "flashinfer.experimental.b12x._lib.compiler as m",
        "m._cute_compile_cache_dir()",
    ),
}
# The folders in it are saved one by one; the packs of experts are tables of several gigabytes.
NOT_SAVED_AS_A_WHOLE = {"vLLM": "vllm", "SGLang": "sglang", "SGLang's packs of experts": "xdg"}
ONLY_WITH_VLLM = {"tokenspeed's Triton", "flash attention", "FA4", "fmha_sm100"}
REPORT = """
import json, sys, warnings
warnings.simplefilter("ignore")
found = {}
for name, (module, expression) in json.loads(sys.argv[1]).items():
    names = {}
    exec(f"import {module}", names)
    found[name] = str(eval(expression, names))
print(json.dumps(found))
"""


def unsaved_folders(
    root: Path, paths: Paths, python: str = sys.executable, **more: str
) -> list[str]:
    """Return which of the packages' folders are not among those that are saved.

    Args:
        root: CACHE_ROOT.
        paths: the packages.
        python: the interpreter that has them.
        more: further variables.
    """
    home = {"HOME": "/nonexistent"}  # FlashInfer's kernels would be used from there
    with patch.dict(os.environ, home):
        caches = CompileCache(
            root, root_is_required=True, key="key", volume=None, environ={}, max_bytes=0
        )
    environ = clean_environment(**caches.environ, **more) | home
    done = subprocess.run(
        [python, "-c", REPORT, json.dumps(paths)],
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == paths.keys()
    saved = [root / "key" / folder for folder in ARCHIVED_FOLDERS]
    return [
        f"{name}: {path}"
        for name, path in found.items()
        if Path(path) != root / "key" / NOT_SAVED_AS_A_WHOLE.get(name, "none")
        and not any(Path(path).is_relative_to(folder) for folder in saved)
    ]


def unknown_defaults(site_packages: Path) -> list[str]:
    """Return the files with a folder of their own that neither KEPT nor HARMLESS has."""
    known = {*KEPT, *(name for names in HARMLESS.values() for name in names.split())}
    return [
        path
        for path in files_with_a_default(site_packages)
        if {path, path.split("/")[0]}.isdisjoint(known)
    ]


def files_with_a_default(site_packages: Path) -> list[str]:
    """Return the source files whose code names a folder in the home or for temporary files."""
    found = subprocess.run(
        ["grep", "-rlE", "--include=*.py", PATTERN, "."],
        cwd=site_packages,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return sorted(
        str(path)
        for path in map(Path, found.stdout.splitlines())
        if NOT_PART_OF_AN_ENGINE.isdisjoint(path.parts) and any(_defaults(site_packages / path))
    )


def _defaults(path: Path) -> Iterator[ast.AST]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes
        tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=arguments):
                names_home = name in ("expanduser", "Path") and any(map(_is_home, arguments))
                if name in FUNCTIONS or names_home:
                    yield node
            case ast.Constant(value="XDG_CACHE_HOME"):
                yield node


def _is_home(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and str(node.value).startswith("~")
