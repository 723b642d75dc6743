"""A model that is resolved in a process of its own, as at the start of a worker."""

import subprocess
import sys

from tests.support.environment import ROOT, clean_environment


def run_resolve(tmp_path, hub_url, **environ):
    """Resolve a model in a process of its own: huggingface-hub reads HF_ENDPOINT at import.

    It is patient, because requests are counted.
    """
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from handler.settings.environ import load_settings\n"
        "from handler.errors import WorkerError\n"
        "from handler.model.hub_cache import caches_in_environ\n"
        "from handler.model.resolve import resolve_model\n"
        "from handler.model.sources import ModelSources\n"
        "from tests.support.patient import wait_for_the_hub\n"
        "wait_for_the_hub()\n"
        "settings = load_settings(os.environ)\n"
        "sources = ModelSources(\n"
        "    settings.base_path, settings.hf_token, Path('none'), retry_waits_seconds=(0, 0, 0),\n"
        "    user_caches=caches_in_environ(os.environ),\n"
        ")\n"
        "try:\n"
        "    model = resolve_model(settings, sources, os.environ)\n"
        "    print(model.name, model.path)\n"
        "    if model.environment:\n"
        "        print(model.environment['HF_HUB_CACHE'], model.is_local)\n"
        "except WorkerError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    environment = clean_environment(
        **{"HF_ENDPOINT": hub_url, "BASE_PATH": str(tmp_path), **environ}
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


def resolve(tmp_path, hub_url, **environ):
    """Return the model's name and folder, or the error."""
    return run_resolve(tmp_path, hub_url, **environ).stdout.strip()
