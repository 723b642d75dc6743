"""The README's table of settings is the settings."""

import re

from handler.environ import variables
from handler.settings import Settings
from tests.support.environment import ROOT


def test_the_table_of_settings_is_complete_and_true():
    """Names, defaults and descriptions, in the same order."""
    settings = README.split("## Settings")[1]
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \| (.*?) ?\| (.+) \|$", settings, re.MULTILINE)
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
    tree = README.split("## Where things are")[1].split("\nbuilder/")[0]
    modules = {p.name for p in (ROOT / "handler").rglob("*.py")} - {"__init__.py"}
    assert modules - set(re.findall(r"\w+\.py", tree)) == set()
    named = set(re.findall(r"^ {2}(\w+\.py)", tree, re.MULTILINE))
    assert named <= modules


def test_the_table_of_build_arguments_is_the_dockerfiles():
    """What can be given, and nothing that cannot."""
    image = README.split("## The image")[1].split("### What is fetched")[0]
    rows = re.findall(r"^\| (`.+?`) \| .+ \| .+ \|$", image, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}
    recipe = (ROOT / "Dockerfile").read_text()
    arguments = re.findall(r"^ARG (.+)$", recipe, re.MULTILINE)
    given = {part.partition("=")[0] for line in arguments for part in line.split()}
    assert named == given - {"VERSION"}


README = (ROOT / "README.md").read_text()
