"""What an endpoint should be."""

from builder.deploy.changes import gpu_pools
from builder.presets import PRESETS


def test_pools_are_parsed_in_any_case_and_with_commas_or_spaces():
    assert gpu_pools("ada_24, AMPERE_24 ADA_48_PRO") == ["ADA_24", "AMPERE_24", "ADA_48_PRO"]


def test_the_pools_of_every_preset_exist():
    for preset in PRESETS:
        assert gpu_pools(",".join(preset.gpu_pools)) == list(preset.gpu_pools)
