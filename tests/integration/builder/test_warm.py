"""`builder warm` where the worker does not start; with an engine: tests/engine/test_warm.py."""

import re
import shutil
import subprocess
import sys

from tests.support.environment import ROOT, clean_environment


def warm(*arguments, **environ):
    return subprocess.run(
        [sys.executable, "-m", "builder", "warm", *arguments],
        cwd=ROOT,
        env=clean_environment(**environ),
        capture_output=True,
        text=True,
    )


def test_a_worker_that_fails_is_an_error_and_leaves_nothing(tmp_path):
    done = warm("--out", tmp_path / "out", MODEL_NAME="m", MAX_QUEUE="-1")
    assert done.returncode == 11
    assert done.stderr.splitlines()[-1] == "warm: the worker ended with exit code 2"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    done = warm("--out", tmp_path / "file/out", MODEL_NAME="m")
    assert done.returncode == 4
    assert done.stderr == f"warm: {tmp_path}/file/out: Not a directory\n"


def test_the_image_has_all_that_the_command_needs(tmp_path):
    """The image's recipe copies the modules of this command only."""
    recipe = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    final_stage = recipe.rpartition("\nFROM ")[2]
    for source in re.findall(r"builder/\w+\.py", final_stage):
        (tmp_path / "builder").mkdir(exist_ok=True)
        shutil.copy(ROOT / source, tmp_path / source)
    shutil.copytree(ROOT / "handler", tmp_path / "handler")
    done = subprocess.run(
        [sys.executable, "-m", "builder", "warm", "--help"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m builder warm [-h] --out FOLDER")
