"""Loaders of weights that are packages of their own: whether the one that is asked for is there.

The engines find out in a child process, whose trace alone would say so.
"""

from importlib.util import find_spec

from handler.errors import InvalidSetting

PACKAGES = {  # LOAD_FORMAT → what has to be installed for it
    "runai_streamer": "runai-model-streamer",
    "runai_streamer_sharded": "runai-model-streamer",
    "fastsafetensors": "fastsafetensors",
    "instanttensor": "instanttensor",
    "tensorizer": "tensorizer",
}


def check(load_format: str) -> None:
    """Raise InvalidSetting if LOAD_FORMAT needs a package that is not here."""
    package = PACKAGES.get(load_format)
    if package is not None and find_spec(package.replace("-", "_")) is None:
        raise InvalidSetting(
            f"LOAD_FORMAT={load_format!r} needs the package {package}, which is not installed "
            "here: add it to the image, or leave LOAD_FORMAT out."
        )
