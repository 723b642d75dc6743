"""Runpod's GPU pools."""

import pytest

from builder.presets import PRESETS
from handler.gpu_pools import load_gpu_table


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
        ("RTX", []),
        ("Z9", []),
    ],
)
def test_a_pool_is_found_by_its_name_or_by_words_of_a_gpus_name(text, pools):
    assert [pool.name for pool in load_gpu_table().find_pools(text)] == pools


@pytest.mark.parametrize(
    ("device", "pool"),
    [
        ("NVIDIA RTX A4000", "AMPERE_16"),
        ("NVIDIA RTX 4000 Ada Generation", "AMPERE_16"),
        ("NVIDIA L4", "AMPERE_24"),
        ("NVIDIA RTX A5000", "AMPERE_24"),
        ("NVIDIA GeForce RTX 3090", "AMPERE_24"),
        ("NVIDIA GeForce RTX 4090", "ADA_24"),
        ("NVIDIA GeForce RTX 5090", "ADA_32_PRO"),
        ("NVIDIA RTX A6000", "AMPERE_48"),
        ("NVIDIA A40", "AMPERE_48"),
        ("NVIDIA L40", "ADA_48_PRO"),
        ("NVIDIA L40S", "ADA_48_PRO"),
        ("NVIDIA RTX 6000 Ada Generation", "ADA_48_PRO"),
        ("NVIDIA A100-SXM4-80GB", "AMPERE_80"),
        ("NVIDIA A100 80GB PCIe", "AMPERE_80"),
        ("NVIDIA H100 80GB HBM3", "ADA_80_PRO"),
        ("NVIDIA H100 PCIe", "ADA_80_PRO"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "BLACKWELL_96"),
        ("NVIDIA H200", "HOPPER_141"),
        ("NVIDIA B200", "BLACKWELL_180"),
        ("NVIDIA GeForce GTX 1080", None),
        ("NVIDIA RTX PRO 4500 Blackwell", None),
    ],
)
def test_a_pool_is_found_by_the_drivers_name_of_a_gpu(device, pool):
    found = load_gpu_table().pool_of_device(device)
    assert (found and found.name) == pool


def test_other_prices_replace_all_of_the_tables():
    table = load_gpu_table().with_prices("today", {"ADA_24": (1.2, None)})
    prices = {
        pool.name: (pool.flex_dollars_per_hour, pool.pod_dollars_per_hour) for pool in table.pools
    }
    assert table.date == "today"
    assert prices.pop("ADA_24") == (1.2, None)
    assert set(prices.values()) == {(None, None)}
