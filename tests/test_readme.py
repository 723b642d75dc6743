"""The README's table of settings is the settings."""

import re

from handler.settings import Settings, variables
from tests.conftest import ROOT


def test_the_table_of_settings_is_complete_and_true():
    """Names, defaults and descriptions, in the same order."""
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \| (.*?) ?\| (.+) \|$", README, re.MULTILINE)
    assert rows == [
        (
            ", ".join(f"`{name}`" for name in names),
            f"`{default}`" if (default := Settings.model_fields[field].default) else "",
            Settings.model_fields[field].description,
        )
        for field, names in variables().items()
    ]


def test_the_tree_names_every_module_and_no_other():
    """A module that is not in the tree is not found by the next engineer."""
    tree = README.split("## Where things are")[1]
    modules = {p.name for p in (ROOT / "handler").rglob("*.py")} - {"__init__.py"}
    assert modules - set(re.findall(r"\w+\.py", tree)) == set()
    named = set(re.findall(r"^ {2}(\w+\.py)", tree, re.MULTILINE))
    assert named <= modules


README = (ROOT / "README.md").read_text()
