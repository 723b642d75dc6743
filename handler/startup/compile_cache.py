"""Compiled code of the engines, kept from one start to the next and copied to the network volume.

    python -m handler.startup.compile_cache restore|save VOLUME FOLDER…

torch.compile, Triton, FlashInfer and the engines have a cache each, and a variable for its folder;
all of them are put below one root. A worker with a network volume restores the root's compiled
code while it imports the engine, and copies new code back once it serves. The Runpod SDK copies,
in a child process: importing the SDK here would import half of the engine's packages during the
engine's own import. Each cache's own keys decide which entries are stale.
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

log = logging.getLogger(__name__)

# Variable → folder below the root. A variable that is set stays as it is.
CACHE_FOLDERS = {
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
    "CUDA_CACHE_PATH": "cuda",  # code that the driver compiles
}
# Folders that are valid on other machines. The rest is not copied: this machine's GPU topology, and
# tables of several gigabytes.
COPIED_FOLDERS = (
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
FLASHINFER_IN_IMAGE = Path("~/.cache/flashinfer")  # kernels that an image ships, used from there
RESTORE_TIMEOUT_SECONDS = 120.0
LAST_SAVE_TIMEOUT_SECONDS = 5.0
MAX_PARTIAL_FILE_AGE_SECONDS = 3600.0  # an older one belongs to a copy that was interrupted


class CompileCache:
    """The compile caches of one start; leaving the context ends a copy that still runs.

    Args:
        root: the folder for all caches.
        root_is_required: whether a root that is not writable is an error. Otherwise a folder for
            temporary files replaces it, as in a container whose user has no home.
        volume: the mount of the network volume, None without copies.
        environ: the worker's environment, with the endpoint's id and cache folders of the user.
        last_save_timeout_seconds: the bound for the copy at the end.

    Attributes:
        environ: the variables to set for the engines.
        on_volume: whether the caches are copied.

    Raises:
        InvalidSetting: the root is required and not writable.
    """

    def __init__(
        self,
        root: Path,
        *,
        root_is_required: bool,
        volume: Path | None,
        environ: Mapping[str, str],
        last_save_timeout_seconds: float = LAST_SAVE_TIMEOUT_SECONDS,
    ) -> None:
        root = _writable_root(root, root_is_required)
        volume = volume and volume.resolve()
        folders = {name: str(root / folder) for name, folder in CACHE_FOLDERS.items()}
        if FLASHINFER_IN_IMAGE.expanduser().is_dir():
            folders["FLASHINFER_WORKSPACE_BASE"] = str(Path.home())
        self.environ = {name: path for name, path in folders.items() if name not in environ}
        self.on_volume = (
            volume is not None
            and "RUNPOD_ENDPOINT_ID" in environ
            and volume.is_dir()
            and not root.is_relative_to(volume)  # it would be copied onto itself
        )
        self._arguments = [str(volume), *(str(root / folder) for folder in COPIED_FOLDERS)]
        self._copy_environ = {**environ, "RUNPOD_LOG_LEVEL": "WARN"}
        self._last_save_timeout_seconds = last_save_timeout_seconds
        self._copy: subprocess.Popen[str] | None = None

    def __enter__(self) -> "CompileCache":
        if self.on_volume:
            self._copy = self._start_copy("restore")
        return self

    def __exit__(self, *_: object) -> None:
        if self._copy is not None and self._copy.poll() is None:
            self._copy.kill()
            self._copy.communicate()

    def wait_until_restored(self) -> None:
        """Wait for the copy from the volume, at most RESTORE_TIMEOUT_SECONDS."""
        if self._copy is None:
            return
        try:
            output, _ = self._copy.communicate(timeout=RESTORE_TIMEOUT_SECONDS)
            log.info("compile cache: restored %s from the volume", output.strip() or "nothing")
        except subprocess.TimeoutExpired:
            self._copy.kill()
            self._copy.communicate()
            log.warning("compile cache: the volume is too slow, starting without the cache")
        self._copy = None

    def start_save(self) -> None:
        """Start to copy new files to the volume, unless a copy runs."""
        if self.on_volume and (self._copy is None or self._copy.poll() is not None):
            self._copy = self._start_copy("save")

    def finish_save(self) -> None:
        """Copy files that are new since the last save, within the bound for the end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait_for_copy()
            self.start_save()
            self._wait_for_copy()

    def _wait_for_copy(self) -> None:
        if self._copy is not None:
            self._copy.wait(self._last_save_timeout_seconds)

    def _start_copy(self, action: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "handler.startup.compile_cache", action, *self._arguments],
            env=self._copy_environ,
            stdout=subprocess.PIPE if action == "restore" else None,
            text=True,
        )


def main(arguments: Sequence[str]) -> None:
    """Copy from or to the volume with the SDK, which logs its errors."""
    from runpod.serverless import VolumeCache

    action, volume, *folders = arguments
    cache = VolumeCache(dirs=folders, volume_path=volume)
    if action == "restore":
        print(f"{cache.hydrate()} files", flush=True)
        return
    _remove_partial_files(Path(volume) / ".cache" / os.environ["RUNPOD_ENDPOINT_ID"])
    cache.sync(background=False)


def _remove_partial_files(mirror: Path) -> None:
    """Remove the partial files of copies that were interrupted."""
    for path in mirror.rglob("*.rpvc.tmp"):
        with contextlib.suppress(OSError):  # another worker was faster
            if path.stat().st_mtime < time.time() - MAX_PARTIAL_FILE_AGE_SECONDS:
                path.unlink()


def _writable_root(root: Path, is_required: bool) -> Path:
    folder = root.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if is_required:
            reason = error.strerror or repr(error)
            raise InvalidSetting(f"CACHE_ROOT='{root}' is not writable ({reason}).") from error
        return _temporary_root()
    return folder


def _temporary_root() -> Path:
    """Return a folder that only this user can write to, because the code in it is executed."""
    root = Path(tempfile.gettempdir()) / f"llm-worker-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="llm-worker-"))
    return root


if __name__ == "__main__":
    main(sys.argv[1:])
