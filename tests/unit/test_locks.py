"""The locks that one environment is made of agree."""

import re

from tests.support.environment import ROOT


def test_the_locks_of_the_first_environment_name_one_version_of_a_package():
    """Those that `make run` installs together, and those of the checks on top."""
    line = re.search(r"^LOCKS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    versions = {}
    for name in [*line.split(), "requirements/dev.txt"]:
        for package, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.M):
            versions.setdefault(package, set()).add(version)
    assert len(versions) > 100
    assert {package: each for package, each in versions.items() if len(each) > 1} == {}
