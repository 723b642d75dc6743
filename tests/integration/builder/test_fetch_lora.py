"""`python -m builder.fetch --kind lora` fetches the adapters in LORA_MODULES."""

import subprocess
import sys

from handler.model.lora import locate_adapters, read_adapter
from handler.model.sources import ModelSources
from tests.support.checkpoints import lora
from tests.support.environment import ROOT, clean_environment
from tests.support.hub import Repository, running_hub


def test_a_build_fetches_adapters_that_a_worker_serves_without_a_setting(tmp_path):
    folder = lora(tmp_path / "adapter", rank=8)
    modules = '[{"name": "org/sql", "path": "org/adapter"}, {"name": "x", "path": "org/adapter"}]'
    with running_hub(adapter=Repository(folder)) as hub:
        environ = clean_environment(
            LORA_MODULES=modules, HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1", PYTHONPATH=str(ROOT)
        )
        command = [sys.executable, "-m", "builder.fetch", "--kind", "lora"]
        command += ["--out", str(tmp_path / "baked/lora")]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    baked = tmp_path / "baked/lora"
    assert done.stdout.splitlines() == [str(baked / "org--sql"), str(baked / "x")]
    sources = ModelSources(tmp_path / "volume", baked=tmp_path / "baked")
    served = [read_adapter(*each) for each in locate_adapters(None, sources).items()]
    assert [(adapter.name, adapter.rank, adapter.is_local) for adapter in served] == [
        ("org/sql", 8, True),
        ("x", 8, True),
    ]
    named = locate_adapters("other=org/adapter", sources)
    assert {name: found.path for name, found in named.items()} == {"other": baked / "org--sql"}


def test_without_a_repository_and_lora_modules_nothing_is_fetched():
    done = subprocess.run(
        [sys.executable, "-m", "builder.fetch", "--kind", "lora"],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("error: give a repository, or --kind lora and LORA_MODULES\n")
