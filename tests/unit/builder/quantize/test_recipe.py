"""Group sizes, and how two recipes differ."""

import pytest

from builder.errors import CheckpointRefused
from builder.quantize.recipe import QuantizationRecipe, select_group_size


@pytest.mark.parametrize(
    ("widths", "size"), [((4096, 11008), 128), ((576, 1536), 32), ((96, 128), 32)]
)
def test_the_group_size_is_128_if_it_divides_every_layer_else_32(widths, size):
    assert select_group_size({str(width): width for width in widths}) == size
    assert select_group_size({str(width): width for width in widths}, 32) == 32


def test_a_layer_that_no_group_size_divides_is_named():
    with pytest.raises(
        CheckpointRefused,
        match=r"^AWQ's groups of 128 or 32 do not divide the 72 inputs of b: choose fp8\.$",
    ):
        select_group_size({"a": 64, "b": 72})
    with pytest.raises(
        CheckpointRefused,
        match=r"^AWQ's groups of 64 do not divide the 32 inputs of b: choose fp8, or a smaller",
    ):
        select_group_size({"a": 64, "b": 32}, 64)


def test_the_first_difference_of_two_recipes_is_in_words():
    one = QuantizationRecipe("org/m", "c0ffee", "fp8", "text.txt sha256:1", 512)
    other = QuantizationRecipe(
        "org/m", "c0ffee", "awq", "text.txt sha256:1", 512, "d sha256:2", 128, 20
    )
    assert one.difference(one.json_text()) is None
    assert one.difference(other.json_text()) == "was made with method awq, not fp8"
    assert one.difference("{}") == "was made with version none, not 1"
