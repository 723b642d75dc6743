"""Runpod's GPU pools."""

import pytest

from builder.errors import InvalidArgument
from builder.plan.gpus import load_gpu_table
from builder.presets import PRESETS


def test_the_pools_of_the_presets_are_in_the_table():
    pools = {pool.name for pool in load_gpu_table().pools}
    assert {name for preset in PRESETS for name in preset.gpu_pools} <= pools


@pytest.mark.parametrize(
    ("text", "pools"),
    [
        ("H100", ["ADA_80_PRO"]),
        ("rtx 4090", ["ADA_24"]),
        ("ada_48_pro", ["ADA_48_PRO"]),
        ("6000", ["ADA_48_PRO", "BLACKWELL_96"]),
        ("6000 Ada", ["ADA_48_PRO"]),
        ("A40", ["AMPERE_48"]),
    ],
)
def test_a_pool_is_found_by_its_name_or_by_words_of_a_gpus_name(text, pools):
    assert [pool.name for pool in load_gpu_table().find_pools(text)] == pools


@pytest.mark.parametrize("text", ["RTX", "Z9"])
def test_an_unknown_gpu_is_refused_with_the_known_ones(text):
    with pytest.raises(
        InvalidArgument, match=rf"^--gpu '{text}': unknown GPU or pool. Known are AMPERE_16"
    ):
        load_gpu_table().find_pools(text)
