"""What the engines compile, kept from one start to the next: one folder, and a copy of it.

    python -m handler.startup.compile_cache restore|save VOLUME FOLDER…

torch.compile, Triton, FlashInfer and the engines themselves each have a cache and a variable that
says where. All of them are put below one root. A worker of an endpoint with a network volume
restores those of compiled code while it imports the engine, and copies them back once it serves;
another has what its image was built with. The SDK copies, in a process of its own: it would import
half of what the engine imports, at the same time and in the same process.

A user without a home has the caches in the folder for temporary files, for as long as that lasts.

What is in the caches, and when it is stale, their owners know: each keys its entries.
"""

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from handler.errors import InvalidSetting
from handler.settings import Settings

log = logging.getLogger(__name__)

# The variable of each cache → its folder below the root. A variable that is set stays as it is.
FOLDERS = {
    "VLLM_CACHE_ROOT": "vllm",
    "SGLANG_CACHE_DIR": "sglang",
    "SGLANG_JIT_CACHE_DIR": "sglang/jit",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "DG_JIT_CACHE_DIR": "deep_gemm",
    "SGLANG_DG_CACHE_DIR": "deep_gemm",
    "TVM_FFI_CACHE_DIR": "tvm_ffi",
    "TILELANG_CACHE_DIR": "tilelang",
    "CUDA_CACHE_PATH": "cuda",  # what the driver compiles
}
# What another machine may have as well. Not the engines' roots: they also hold which GPUs of this
# machine reach each other, and tables of gigabytes.
COPIED = (
    "vllm/torch_compile_cache",
    "vllm/modelinfos",
    "vllm/startup_plan",
    "sglang/jit",
    "sglang/cute_aot",
    "sglang/torch_compile_cache",
    "inductor",
    "triton",
    "flashinfer",
    "deep_gemm",
    "tvm_ffi",
    "tilelang",
    "cuda",
)
# Where an image may have what a cache would have to fetch; then it stays there.
IN_IMAGE = {"FLASHINFER_WORKSPACE_BASE": Path("~/.cache/flashinfer")}
RESTORE_SECONDS = 120.0
LAST_COPY_SECONDS = 5.0
LEFT_OVER_SECONDS = 3600.0  # a copy that takes longer was cut off


class CompileCache:
    """One start's caches.

    Args:
        settings: with the root and the volume's mount.
        environ: the worker's, which may name the endpoint and folders of its own.

    Attributes:
        variables: what the engines read.
        on_volume: whether there is a copy on a volume.

    Entering it sets the variables and begins to restore what the volume has; leaving it ends a copy
    that still runs.

    Raises:
        InvalidSetting: CACHE_ROOT is set, and nothing can be written there.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        root, volume = _root(settings), settings.base_path.resolve()
        self.variables = {
            name: str(_in_image(name) or root / folder)
            for name, folder in FOLDERS.items()
            if name not in environ
        }
        self.on_volume = (
            settings.volume_cache
            and "RUNPOD_ENDPOINT_ID" in environ
            and volume.is_dir()
            and not root.is_relative_to(volume)  # it would be a copy of itself
        )
        self._arguments = [str(volume), *(str(root / folder) for folder in COPIED)]
        self._environ = {**environ, "RUNPOD_LOG_LEVEL": "WARN"}
        self._copying: subprocess.Popen[str] | None = None

    def __enter__(self) -> "CompileCache":
        os.environ.update(self.variables)
        if self.on_volume:
            self._copying = self._begin("restore")
        return self

    def __exit__(self, *_: object) -> None:
        if self._copying is not None and self._copying.poll() is None:
            self._copying.kill()
            self._copying.communicate()

    def restored(self) -> None:
        """Wait until it is here. A start without the caches is slow, and a start."""
        if self._copying is None:
            return
        try:
            said, _ = self._copying.communicate(timeout=RESTORE_SECONDS)
            log.info("caches: %s from the volume", said.strip() or "nothing")
        except subprocess.TimeoutExpired:
            self._copying.kill()
            self._copying.communicate()
            log.warning("caches: the volume takes too long, the start goes on without it")
        self._copying = None

    def begin_save(self) -> None:
        """Begin to copy what is new to the volume, unless that is under way."""
        if self.on_volume and (self._copying is None or self._copying.poll() is not None):
            self._copying = self._begin("save")

    def finish(self) -> None:
        """Copy what was compiled since, as far as `LAST_COPY_SECONDS` allow."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(LAST_COPY_SECONDS)
            self.begin_save()
            self._wait(LAST_COPY_SECONDS)

    def _wait(self, seconds: float) -> None:
        if self._copying is not None:
            self._copying.wait(seconds)

    def _begin(self, what: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "handler.startup.compile_cache", what, *self._arguments],
            env=self._environ,
            stdout=subprocess.PIPE if what == "restore" else None,
            text=True,
        )


def main(arguments: Sequence[str]) -> None:
    """Copy from or to the volume, by the SDK's own means, which say what went wrong."""
    from runpod.serverless import VolumeCache

    what, volume, *folders = arguments
    cache = VolumeCache(dirs=folders, volume_path=volume)
    if what == "restore":
        print(f"{cache.hydrate()} files", flush=True)
        return
    _remove_left_overs(Path(volume) / ".cache" / os.environ["RUNPOD_ENDPOINT_ID"])
    cache.sync(background=False)


def _remove_left_overs(mirror: Path) -> None:
    """Remove what copies have left behind that were cut off."""
    for path in mirror.rglob("*.rpvc.tmp"):
        with contextlib.suppress(OSError):  # another worker was faster
            if path.stat().st_mtime < time.time() - LEFT_OVER_SECONDS:
                path.unlink()


def _root(settings: Settings) -> Path:
    """Return a folder that can be written to: the setting's, or one for temporary files."""
    root = settings.cache_root.expanduser().resolve()
    problem = _problem(root)
    if problem is None:
        return root
    if "cache_root" in settings.model_fields_set:
        raise InvalidSetting(
            f"CACHE_ROOT='{settings.cache_root}' cannot be written to ({problem})."
        )
    return _temporary_root()


def _temporary_root() -> Path:
    """Return a folder that is this user's alone, for what is compiled is run."""
    root = Path(tempfile.gettempdir()) / f"llm-worker-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="llm-worker-"))
    return root


def _problem(root: Path) -> str | None:
    """Make the folder; return why nothing can be written there, or None."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        return error.strerror or repr(error)
    return None


def _in_image(name: str) -> Path | None:
    folder = IN_IMAGE.get(name, Path()).expanduser()
    return Path.home() if name in IN_IMAGE and folder.is_dir() else None


if __name__ == "__main__":
    main(sys.argv[1:])
