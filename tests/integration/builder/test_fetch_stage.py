"""The image's fetch stage has every module and package that fetching imports."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

from builder.install import locked_names
from tests.support.checkpoints import lora
from tests.support.environment import ROOT, clean_environment
from tests.support.hub import Repository, running_hub

# Python imports this before anything else, in the download's own process as well.
BLOCK_IMPORTS = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            raise ModuleNotFoundError(f"{{name}} is not in requirements/fetch.txt", name=name)

sys.meta_path.insert(0, Block())
"""


@pytest.fixture
def stage(tmp_path):
    """What the stage `models` copies, and Python without the packages that it does not install."""
    folder = tmp_path / "stage"
    recipe = (ROOT / "Dockerfile").read_text().partition("FROM tools AS models")[2]
    copies = re.findall(r"^COPY ((?:[^\n]*\\\n)*[^\n]*)", recipe.partition("\nFROM ")[0], re.M)
    for copy in copies:
        *sources, target = copy.replace("\\\n", " ").split()
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / target)
            else:
                (folder / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, folder / target)
    allowed = locked_names((ROOT / "requirements/fetch.txt").read_text())
    blocked = {
        module
        for module, packages in packages_distributions().items()
        if not allowed & {package.lower().replace("_", "-") for package in packages}
    }
    (folder / "sitecustomize.py").write_text(BLOCK_IMPORTS.format(names=blocked))
    return folder


@pytest.mark.parametrize(
    ("command", "made"),
    [
        (("builder.fetch", "org/adapter", "--kind", "lora", "--out", "models/a"), "models/a"),
        (("builder.fetch", "--kind", "lora"), "models/lora/x"),
    ],
    ids=["one repository", "LORA_MODULES"],
)
def test_the_stage_fetches_with_what_it_copies(stage, tmp_path, command, made):
    with running_hub(adapter=Repository(lora(tmp_path / "adapter"))) as hub:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            env=clean_environment(
                HF_ENDPOINT=hub.url,
                HF_HUB_DISABLE_XET="1",
                LORA_MODULES="x=org/adapter",
                PYTHONPATH=str(stage),
            ),
            cwd=stage,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert (done.returncode, done.stdout) == (0, f"{made}\n"), done.stderr
