"""A start with SGLang's preset: its model's own configuration, beside a simulated GPU."""

import pytest

from builder.presets import PRESETS
from tests.gpu.sglang.conftest import ANSWER, PYTHON
from tests.gpu.test_presets import GPU_OF_POOL, OFFLINE, answered, write_model

SGLANG = [preset for preset in PRESETS if preset.engine == "sglang"]


@pytest.mark.parametrize("preset", SGLANG, ids=lambda preset: preset.model)
def test_a_preset_starts_and_answers(sglang_environment, tmp_path, preset):
    environment = sglang_environment(
        GPU_OF_POOL[preset.gpu_pools[0]],
        **OFFLINE,
        **preset.environment,
        MODEL_NAME=str(write_model(tmp_path / "model", preset)),
    )
    job = {"prompt": "Paris", "max_tokens": 32}
    assert ANSWER in answered(PYTHON, environment, job)
