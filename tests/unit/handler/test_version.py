"""The version that the worker gives as its own."""

import tomllib

from handler import PRODUCT
from tests.support.environment import ROOT


def test_the_product_is_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"{project['name']}/{project['version']}" == PRODUCT
