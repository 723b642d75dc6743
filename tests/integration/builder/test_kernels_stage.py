"""The image's stage that compiles FlashInfer's kernels has the modules that its command needs."""

import re
import shutil
import subprocess
import sys

from tests.support.environment import MODELS, NAME, ROOT, clean_environment


def test_the_stage_copies_all_that_the_command_needs(tmp_path):
    """With the demo model's config, as far as FlashInfer, which is not in this environment."""
    stage = (ROOT / "Dockerfile").read_text().partition("FROM gpu AS kernels")[2]
    stage = stage.partition("\nFROM ")[0].replace("\\\n", "")
    for copy in re.findall(r"^COPY (.+)", stage, re.M):
        *sources, target = copy.split()
        (tmp_path / target).mkdir(parents=True, exist_ok=True)
        for source in sources:
            shutil.copy(ROOT / source, tmp_path / target)
    config = MODELS / f"{NAME}-awq/config.json"
    done = subprocess.run(
        [sys.executable, "-m", "builder.kernels", "8.9", "--config", config, "--out", "out"],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=""),
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'flashinfer'"
