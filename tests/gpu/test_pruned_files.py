"""What the image leaves out of the CUDA build: each file of the list exists in it."""

import pytest

from builder.image_layers import pruned_files
from tests.support.environment import ROOT

PATTERNS = pruned_files((ROOT / "requirements/pruned.txt").read_text())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_pattern_matches_a_file(pattern):
    [packages] = (ROOT / ".venv-cuda/lib").glob("python*/site-packages")
    assert any(packages.glob(pattern))
