"""LoRA adapters from a local hub."""

import subprocess
import sys
from pathlib import Path

from tests.support.checkpoints import lora
from tests.support.environment import ROOT, clean_environment
from tests.support.hub import Repository, running_hub

RESOLVE = """
import os
from pathlib import Path
from handler.model.lora import locate_adapters, read_adapter
from handler.model.sources import ModelSources
sources = ModelSources(Path(os.environ["BASE_PATH"]))
for name, located in locate_adapters(os.environ["LORA_MODULES"], sources).items():
    adapter = read_adapter(name, sources.fetch(located))
    print(adapter.name, adapter.rank, adapter.is_local, adapter.path)
"""


def test_adapters_come_from_folders_and_from_the_hub_with_the_two_files_that_count(tmp_path):
    folder = lora(tmp_path / "local", rank=8)
    (folder / "optimizer.pt").write_text("of the training")
    (tmp_path / "volume").mkdir()
    with running_hub(adapter=Repository(folder)) as hub:
        environ = clean_environment(
            LORA_MODULES=f"local={folder} far=org/adapter",
            BASE_PATH=str(tmp_path / "volume"),
            HF_ENDPOINT=hub.url,
            HF_HUB_DISABLE_XET="1",
        )
        done = subprocess.run(
            [sys.executable, "-c", RESOLVE],
            env=environ,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    local, far = done.stdout.splitlines()
    assert local == f"local 8 True {folder}"
    assert far.startswith("far 8 False ")
    assert sorted(path.name for path in Path(far.removeprefix("far 8 False ")).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
