"""A bound on the work of `stop_regex`, which SGLang searches for in its scheduler at every step.

Python's regexes try one way to match after the other: "(a+)+b" has twice as many for each further
"a", and meanwhile no request gets a token. Where every repetition has an end, so have the ways,
and the part of the output that SGLang searches.
"""

from collections.abc import Mapping
from re import _constants, _parser  # type: ignore[attr-defined]  # SGLang uses them as well
from re import error as RegexError
from typing import Any

from handler.errors import InvalidInput

NAME = "stop_regex"
MAX_PATTERN_BYTES = 256  # SGLang's own bound
MAX_STEPS = 100_000  # of one search for all patterns of a request: less than a millisecond
_ONE_CHARACTER = (_constants.LITERAL, _constants.IN, _constants.ANY, _constants.AT)
_REPETITIONS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)


def check_stop_regex(fields: Mapping[str, Any]) -> None:
    """Check the patterns in `stop_regex`, one or a list.

    Raises:
        InvalidInput: one is not a regex, or the search for all of them could take long.
    """
    given, stops = (_texts(fields.get(name)) for name in (NAME, "stop"))
    steps, longest = 0, max(map(len, stops), default=0)
    for text in given:
        if len(text.encode()) > MAX_PATTERN_BYTES:
            raise InvalidInput(f"{NAME} has more than {MAX_PATTERN_BYTES} bytes.", NAME)
        try:
            pattern = _parser.parse(text)
        except (RegexError, RecursionError, OverflowError) as error:
            raise InvalidInput(f"{NAME} is not a regex: {error}.", NAME) from error
        steps += _ways_and_steps(pattern)[1]
        longest = max(longest, pattern.getwidth()[1])
    if given:
        _check_steps(steps * (longest + 1))  # a match is tried from each character


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]


def _ways_and_steps(pattern: Any) -> tuple[int, int]:
    """Return how many ways a pattern may match from one character, and the steps to try them."""
    ways, steps = 1, 1
    for kind, value in pattern:
        if kind in _ONE_CHARACTER:
            more_ways, more_steps = 1, 1
        elif kind is _constants.SUBPATTERN:
            more_ways, more_steps = _ways_and_steps(value[-1])
        elif kind is _constants.BRANCH:
            branches = [_ways_and_steps(branch) for branch in value[1]]
            more_ways, more_steps = (sum(counts) for counts in zip(*branches, strict=True))
        elif kind in _REPETITIONS:
            more_ways, more_steps = _repeated(*value)
        else:
            raise InvalidInput(
                f"{NAME} must have no lookaround, no back reference, no possessive repetition, and "
                "no [^a] of a single character.",
                NAME,
            )
        steps += ways * more_steps
        ways *= more_ways
        _check_steps(steps)
    return ways, steps


def _repeated(low: int, high: int, pattern: Any) -> tuple[int, int]:
    if high == _constants.MAXREPEAT:
        raise InvalidInput(f"{NAME} must have no *, + or {{n,}}: use {{n,m}}.", NAME)
    ways, steps = _ways_and_steps(pattern)
    if ways == 1:
        return high - low + 1, high * steps
    ways_of_all = steps_of_all = 0
    for count in range(high + 1):
        ways_of_all += ways**count if count >= low else 0
        steps_of_all += steps * ways**count
        _check_steps(steps_of_all)
    return ways_of_all, steps_of_all


def _check_steps(steps: int) -> None:
    if steps > MAX_STEPS:
        raise InvalidInput(
            f"{NAME} is too slow to search for at every token: use fewer or smaller repetitions.",
            NAME,
        )
