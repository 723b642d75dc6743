"""What came out of quantizing, and what it cost: the perplexity before and after."""

from dataclasses import dataclass

ENOUGH_TOKENS = 5000  # on fewer, chance moves the perplexity by percents


@dataclass(frozen=True)
class Written:
    """What llm-compressor has written.

    Attributes:
        layers: how many were quantized.
        group_size: of AWQ's groups, None for FP8.
        zero_points: whether each group has one.
    """

    layers: int
    group_size: int | None = None
    zero_points: bool = False


@dataclass(frozen=True)
class Result:
    """What came out of it.

    Attributes:
        written: what was quantized.
        calibrated_tokens: what AWQ has read, 0 for FP8.
        compared_tokens: of the held-out text.
        before: the base's perplexity.
        after: that of what was written.
        version: llm-compressor's.
    """

    written: Written
    calibrated_tokens: int
    compared_tokens: int
    before: float
    after: float
    version: str

    @property
    def change_percent(self) -> float:
        """How much the perplexity has risen."""
        return (self.after / self.before - 1) * 100

    def table(self) -> list[str]:
        """Return the comparison as lines for a terminal."""
        return [
            f"{'':<10}perplexity",
            f"{'before':<10}{self.before:>10.3f}",
            f"{'after':<10}{self.after:>10.3f}  {self.change_percent:+.1f} %",
        ]
