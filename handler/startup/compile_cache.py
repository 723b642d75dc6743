"""Compiled code of the engines, kept from one start to the next and archived on the network volume.

torch.compile, Triton, FlashInfer, the other kernel libraries and the engines have a cache each, and
a variable for its folder; all of them are put below one folder, which is named after the key of
this machine. A worker unpacks the archive of its key, from the image and the network volume, while
it imports the engine, and saves what is new once it serves. A child process reads and writes, so
that the engine's import is not held up. Each cache's own keys decide which entries are stale.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from handler.errors import InvalidSetting, is_lasting
from handler.startup.cache_archive import record_image_files
from handler.startup.cache_folders import USE_INTERVAL_SECONDS, note_use
from handler.startup.cache_key import differ_in_driver_only
from handler.supervisor import Supervisor

log = logging.getLogger(__name__)

# Variable → folder below the key's. A variable that is set stays as it is.
CACHE_FOLDERS = {
    "VLLM_CACHE_ROOT": "vllm",
    "SGLANG_CACHE_DIR": "sglang",
    "SGLANG_JIT_CACHE_DIR": "sglang/jit",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "FLASHINFER_MOE_EP_KNOB_CACHE": "flashinfer_moe/knobs.json",
    "HUMMING_CACHE_DIR": "humming/cache",
    "HUMMING_TMP_DIR": "humming/tmp",
    "QUACK_CACHE_DIR": "quack",
    "CUTE_DSL_CACHE_DIR": "cute_dsl",
    "FLASH_ATTENTION_CUTE_DSL_CACHE_DIR": "flash_attention",
    "FLEX_ATTENTION_CUTE_DSL_CACHE_DIR": "flex_attention",
    "MINFER_FMHA_CACHE_DIR": "fmha_sm100",
    "MM_SPARSE_ATTN_AOT_CACHE": "mm_sparse_attn",
    "DG_JIT_CACHE_DIR": "deep_gemm",
    "SGLANG_DG_CACHE_DIR": "deep_gemm",
    "TVM_FFI_CACHE_DIR": "tvm_ffi",
    "TILELANG_CACHE_DIR": "tilelang",
    "CUDA_CACHE_PATH": "cuda",  # code that the driver compiles
    # cuda-python, cuDNN's front end, cuTile, torch's extensions and its kernels compiled at run
    # time: they have no other variable, or one for each part.
    "XDG_CACHE_HOME": "xdg",
}
FLASHINFER = "FLASHINFER_WORKSPACE_BASE"
FLASHINFER_IN_HOME = Path(".cache/flashinfer")  # kernels that an image ships, used from there
BAKED_ARCHIVES = Path("/opt/caches")  # made with `python -m builder warm`
ARCHIVES_ON_VOLUME = ".cache/{endpoint}/compiled"
RESTORE_TIMEOUT_SECONDS = 120.0
LAST_SAVE_TIMEOUT_SECONDS = 5.0
ARCHIVE, FOLDERS = "handler.startup.cache_archive", "handler.startup.cache_folders"


class CompileCache:
    """The compile caches of one start; leaving the context ends a restore or save that still runs.

    Args:
        root: the folder for all caches.
        root_is_required: whether a root that is not writable is an error. Otherwise a folder for
            temporary files replaces it, as in a container whose user has no home.
        key: what compiled code is valid for, see `cache_key`.
        volume: the mount of the network volume, None without archives on it.
        environ: the worker's environment, with the endpoint's id and cache folders of the user.
        max_bytes: the bound for all archives of the endpoint, and for the folders of all keys
            below the root.
        baked: the folder of the image's archives.
        last_save_timeout_seconds: the bound for the save at the end.
        use_interval_seconds: how often the use of the folder is noted.
        supervisor: watches the thread that notes it.

    Attributes:
        environ: the variables to set for the engines.
        on_volume: whether compiled code is saved on the volume.
        restores: whether there may be an archive to unpack.

    Raises:
        InvalidSetting: the root is required and not writable.
    """

    def __init__(
        self,
        root: Path,
        *,
        root_is_required: bool,
        key: str,
        volume: Path | None,
        environ: Mapping[str, str],
        max_bytes: int,
        baked: Path = BAKED_ARCHIVES,
        last_save_timeout_seconds: float = LAST_SAVE_TIMEOUT_SECONDS,
        use_interval_seconds: float = USE_INTERVAL_SECONDS,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor()
        root = _writable_root(root, root_is_required)
        volume = volume and volume.resolve()
        self._folder = root / key
        self._note_use()
        folders = {name: self._folder / folder for name, folder in CACHE_FOLDERS.items()}
        home = Path(os.path.expanduser("~"))
        if FLASHINFER not in environ and any((home / FLASHINFER_IN_HOME).rglob("*.so")):
            folders[FLASHINFER] = home  # ninja would compile a copy again
            _link(self._folder / CACHE_FOLDERS[FLASHINFER], home)
        if "XDG_CACHE_HOME" not in environ:  # models stay where huggingface-hub has them
            # A user without a home, or a read-only one, needs a folder for a model's own code.
            in_home = os.access(home if home.exists() else home.parent, os.W_OK)
            folders["HF_HOME"] = (home if in_home else root) / ".cache/huggingface"
        self.environ = {name: str(path) for name, path in folders.items() if name not in environ}
        self.on_volume = (
            volume is not None
            and "RUNPOD_ENDPOINT_ID" in environ
            and volume.is_dir()
            and not root.is_relative_to(volume)  # it would be copied onto itself
        )
        self._sources = {}
        if archive := _baked_archive(baked, key):
            self._sources[str(archive)] = "the image"
        if volume is not None and self.on_volume:
            below = ARCHIVES_ON_VOLUME.format(endpoint=environ["RUNPOD_ENDPOINT_ID"])
            archives = volume / below / key
            self._save_arguments = [str(self._folder), str(archives), str(max_bytes)]
            self._sources[str(archives)] = "the volume"
        self.restores = bool(self._sources)
        self._last_save_timeout_seconds = last_save_timeout_seconds
        self._max_bytes = max_bytes
        self._use_interval_seconds = use_interval_seconds
        self._closed = threading.Event()
        self._child: subprocess.Popen[str] | None = None
        self._removal: subprocess.Popen[str] | None = None
        self._child_environ = dict(environ)

    def __enter__(self) -> "CompileCache":
        if self.restores:
            self._child = self._start(ARCHIVE, "restore", str(self._folder), *self._sources)
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for child in (self._child, self._removal):
            if child is not None and child.poll() is None:
                child.kill()
                child.communicate()

    def wait_until_restored(self) -> None:
        """Wait for the archives to be unpacked, at most RESTORE_TIMEOUT_SECONDS."""
        if self._child is None:
            return
        try:
            output, _ = self._child.communicate(timeout=RESTORE_TIMEOUT_SECONDS)
            for archive, files in json.loads(output or "{}").items():
                log.info("compile cache: restored %d files from %s", files, self._sources[archive])
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.communicate()
            log.warning("compile cache: the volume is too slow, starting without the cache")
        self._child = None

    def start_save(self) -> None:
        """Start to save new files on the volume, unless a save runs."""
        if self.on_volume and (self._child is None or self._child.poll() is not None):
            self._child = self._start(ARCHIVE, "save", *self._save_arguments)

    def bound_folders(self) -> None:
        """Start to remove folders that no worker uses, and keep this one in use."""
        self._removal = self._start(FOLDERS, str(self._folder), str(self._max_bytes))
        self._supervisor.thread("note of the cache's use", self._stay_in_use).start()

    def _stay_in_use(self) -> None:
        while not self._closed.wait(self._use_interval_seconds):
            self._note_use()

    def _note_use(self) -> None:
        try:
            note_use(self._folder)
        except OSError as error:
            log.warning("compile cache: %s: %s", self._folder, error.strerror)

    def finish_save(self) -> None:
        """Save files that are new since the last save, within the bound for the end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait_for_save()
            self.start_save()
            self._wait_for_save()

    def _wait_for_save(self) -> None:
        if self._child is not None:
            self._child.wait(self._last_save_timeout_seconds)

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=self._child_environ,
            stdout=subprocess.PIPE if arguments[0] == "restore" else None,
            text=True,
        )


def _baked_archive(folder: Path, key: str) -> Path | None:
    """Return the image's archive of a key, or of that key with another driver.

    Kernels are compiled for a GPU, not for a driver; what the driver has compiled it checks itself.
    """
    archives = {path.name.removesuffix(".tar"): path for path in sorted(folder.glob("*.tar"))}
    if key in archives:
        return archives[key]
    for name, path in archives.items():
        if differ_in_driver_only(name, key):
            log.info("compile cache: the image's archive is of another driver: %s", name)
            return path
    if archives:
        names = ", ".join(archives)
        log.info("compile cache: the image's archives are for %s; this machine is %s", names, key)
    return None


def _link(link: Path, home: Path) -> None:
    """Make FlashInfer's folder in the home a part of the key's folder, so that it is archived."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() or not link.exists():
        is_new = not link.is_symlink()
        link.unlink(missing_ok=True)
        link.symlink_to(home)
        if is_new:
            record_image_files(link.parent)


def _writable_root(root: Path, is_required: bool) -> Path:
    try:
        folder = root.expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of a user who has no home
        if is_required:
            reason = getattr(error, "strerror", None) or str(error)
            raise InvalidSetting(
                f"CACHE_ROOT='{root}' is not writable ({reason}).", lasting=is_lasting(error)
            ) from error
        return _temporary_root()
    return folder


def _temporary_root() -> Path:
    """Return a folder that only this user can write to, because the code in it is executed."""
    root = Path(tempfile.gettempdir()) / f"llm-worker-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="llm-worker-"))
    return root
