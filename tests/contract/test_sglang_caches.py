"""Where SGLang and its packages keep compiled code."""

import sysconfig
from pathlib import Path

import pytest

from tests.support.cache_defaults import (
    SGLANG,
    SHARED,
    TRITON,
    unknown_defaults,
    unsaved_folders,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # SGLang and torch warn while they are imported


def test_what_every_package_writes_is_saved(tmp_path):
    environ = {"SGLANG_USE_CPU_ENGINE": "1"}
    assert unsaved_folders(tmp_path, {**SHARED, **TRITON, **SGLANG}, **environ) == []


def test_no_installed_file_has_a_folder_that_is_not_known():
    assert unknown_defaults(Path(sysconfig.get_path("purelib"))) == []
