"""What the engines compile, kept from one start to the next: one folder, and a copy of it.

torch.compile, Triton, FlashInfer and the engines themselves each have a cache and a variable that
says where. All of them are put below one root. A worker of an endpoint with a network volume
restores the root from there while it imports the engine, and brings back what is new once it
serves; another has what its image was built with.

What is in the caches, and when it is stale, their owners know: each is keyed by them.
"""

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.settings import Settings

log = logging.getLogger(__name__)

# The variable of each cache → its folder below the root. A variable that is set stays as it is.
FOLDERS = {
    "VLLM_CACHE_ROOT": "vllm",  # torch.compile, model inspection, measured memory
    "SGLANG_CACHE_DIR": "sglang",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "DG_JIT_CACHE_DIR": "deep_gemm",
    "SGLANG_DG_CACHE_DIR": "deep_gemm",
    "TVM_FFI_CACHE_DIR": "tvm_ffi",
    "TILELANG_CACHE_DIR": "tilelang",
    "CUDA_CACHE_PATH": "cuda",  # what the driver compiles
}
# An image may come with what a cache would have to fetch; then that stays where it is.
IN_IMAGE = {"FLASHINFER_WORKSPACE_BASE": Path("~/.cache/flashinfer")}
LAST_COPY_SECONDS = 5.0


class CompileCaches:
    """One start's caches.

    Args:
        settings: with the root and the volume's mount.
        environ: the worker's, which may name the endpoint and folders of its own.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._root = settings.cache_root.expanduser()
        self._volume = settings.base_path
        self._copying: threading.Thread | None = None
        self.variables = {
            name: str(self._root / folder)
            for name, folder in FOLDERS.items()
            if name not in environ and not _is_in_image(name)
        }
        self.on_volume = (
            settings.volume_cache and "RUNPOD_ENDPOINT_ID" in environ and self._volume.is_dir()
        )

    def restore(self) -> None:
        """Bring what the volume has, if there is one. The SDK must be prepared before.

        The SDK never raises here: a start without the caches is slow, and a start.
        """
        if self.on_volume:
            log.info("caches: %d files from the volume", self._volume_cache().hydrate())

    def save(self) -> None:
        """Begin to copy what is new to the volume."""
        if self.on_volume and (self._copying is None or not self._copying.is_alive()):
            self._copying = threading.Thread(
                target=self._volume_cache().sync,
                kwargs={"background": False},
                name="caches",
                daemon=True,
            )
            self._copying.start()

    def finish(self) -> None:
        """Copy what was compiled since, as far as `LAST_COPY_SECONDS` allow.

        The copy's list of files is written last: one that is cut off changes nothing.
        """
        if self._copying is not None:
            self._copying.join(LAST_COPY_SECONDS)
            self.save()
            self._copying.join(LAST_COPY_SECONDS)

    def _volume_cache(self) -> Any:
        from runpod.serverless import VolumeCache

        return VolumeCache(dirs=[self._root], volume_path=os.fspath(self._volume))


def _is_in_image(name: str) -> bool:
    folder = IN_IMAGE.get(name)
    return folder is not None and folder.expanduser().is_dir()
