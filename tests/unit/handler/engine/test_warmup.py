"""Prefixes that are prefilled before the first job."""

import json

import pytest

from handler.engine.warmup import parse_prefixes
from handler.errors import InvalidSetting

SYSTEM = [{"role": "system", "content": "Be brief."}]


@pytest.mark.parametrize("from_file", [False, True], ids=["text", "file"])
def test_prefixes_have_three_forms(tmp_path, from_file):
    """A system message, messages, or a whole chat with its tools."""
    text = json.dumps(["Be brief.", SYSTEM, {"messages": SYSTEM, "tools": []}])
    setting = str(tmp_path / "prefixes.json") if from_file else text
    (tmp_path / "prefixes.json").write_text(text)
    alone = {"messages": SYSTEM}
    assert parse_prefixes(setting) == (alone, alone, {"messages": SYSTEM, "tools": []})


def test_no_setting_no_prefix():
    """Nothing is prefilled unless it is asked for."""
    assert parse_prefixes(None) == ()


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("/none.json", "No such file or directory"),
        ("[1]", "item 1 has no messages"),
        ('["a", {"tools": []}]', "item 2 has no messages"),
        ("[", "Expecting value: line 1 column 2 (char 1)"),
    ],
    ids=["file", "number", "no messages", "no JSON"],
)
def test_what_is_no_prefix_stops_the_start(setting, reason):
    """With what would be right, before the engine is imported."""
    with pytest.raises(InvalidSetting) as caught:
        parse_prefixes(setting)
    text = str(caught.value)
    assert text.startswith(f"PREFIX_WARMUP={setting!r} must be a JSON list, or a file with one, ")
    assert text.endswith(f"({reason}).")
