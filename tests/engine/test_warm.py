"""`builder warm` with an engine: what it compiled is in an archive of the machine's key."""

import os
import subprocess
import sys
import tarfile

from handler.startup.cache_key import cache_key
from tests.support.environment import ROOT, START_SECONDS, worker_environment


def test_what_a_start_has_cached_is_archived(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "builder", "warm", "--out", tmp_path],
        cwd=ROOT,
        env=worker_environment(HOME=str(tmp_path / "home")),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    archive = tmp_path / f"{cache_key('vllm', os.environ)}.tar"
    assert done.stdout.splitlines()[-1].startswith(f"{archive}  ")
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [
            "vllm/modelinfos/vllm-model_executor-models-llama-LlamaForCausalLM.json"
        ]
