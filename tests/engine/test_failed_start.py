"""What an engine itself refuses: each job fails with its reason, on the platform in small.

The other rows of docs/failed-starts.md need no engine: tests/integration/handler.
"""

import json
import os

import pytest

from runpod_local import running_platform
from tests.support.environment import MODELS, NAME, worker_command, worker_environment
from tests.support.failed_starts import assert_lasting


def demo_model(folder, **config):
    """Return the demo model with other fields in its config.json."""
    folder.mkdir()
    demo = MODELS / f"{NAME}-bf16"
    for path in demo.iterdir():
        os.symlink(path, folder / path.name)
    merged = json.loads((demo / "config.json").read_text()) | config
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(merged))
    return folder


@pytest.mark.parametrize(
    ("engine", "config", "environ", "code", "reasons"),
    [
        (
            "vllm",
            {},
            {"CUSTOM_CHAT_TEMPLATE": "{% for"},
            2,
            ("CUSTOM_CHAT_TEMPLATE",),
        ),
        ("vllm", {"architectures": ["Foo"]}, {}, 2, ("Foo", "not supported")),
        ("vllm", {"quantization_config": {"quant_method": "foo"}}, {}, 2, ("foo",)),
        ("vllm", {}, {"MAX_MODEL_LEN": "999999"}, 2, ("999999",)),
        ("sglang", {"architectures": ["Foo"]}, {}, 4, ("ValueError: ", "'Foo'")),
        ("sglang", {}, {"CONTEXT_LENGTH": "999999"}, 2, ("999999",)),
    ],
    ids=[
        *("vllm template", "vllm architecture", "vllm quantization", "vllm length"),
        *("sglang architecture", "sglang length"),
    ],
)
def test_what_the_engine_refuses_fails_every_job(tmp_path, engine, config, environ, code, reasons):
    """Some of it SGLang finds out in a process of its own."""
    folder = demo_model(tmp_path / "model", **config)
    given = worker_environment(
        engine=engine,
        MODEL_NAME=str(folder),
        CACHE_ROOT=str(tmp_path / "cache"),
        VLLM_LOGGING_LEVEL="CRITICAL",
        SGLANG_LOGGING_LEVEL="CRITICAL",
        **environ,
    )
    with running_platform() as platform:
        last = assert_lasting(platform, worker_command(engine), given, code)
    assert [reason for reason in reasons if reason not in last] == []
