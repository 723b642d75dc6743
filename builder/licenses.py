"""List the licences of the packages in the Python environment that runs this module.

    python -m builder.licenses

It prints a page with what each package's metadata declares: `make licenses` writes those of the
images to docs/.
"""

import os
import re
import sys
from importlib import metadata

MAX_CHARACTERS = 120  # some packages put the licence's whole text where its name belongs
CLASSIFIER = "License :: "


PAGE = """\
# Licences of the {engine} image

The Python packages that the image ships, as their metadata declares it. The texts are in the image,
in each package's folder `*.dist-info` below `/opt/venv`. Debian's packages have theirs in
`/usr/share/doc`. This page is generated (`make licenses`).
"""
ENGINES = {"vllm": "vLLM", "sglang": "SGLang"}


def main() -> int:
    print(PAGE.format(engine=ENGINES[os.environ["ENGINE"]]))
    print("| package | version | licence |\n| --- | --- | --- |")
    for name, version, text in sorted(licenses(), key=lambda row: row[0].lower()):
        print(f"| {name} | {version} | {text} |")
    return 0


def licenses() -> set[tuple[str, str, str]]:
    """Return name, version and licence of each installed package."""
    return {
        (package.metadata["Name"], package.version, license_of(package.metadata))
        for package in metadata.distributions()
        if package.metadata and package.metadata["Name"]
    }


def license_of(package: metadata.PackageMetadata) -> str:
    """Return the licence that a package declares: its expression, name or classifiers."""
    declared = package["License-Expression"] or package["License"] or ""
    name = declared.strip().partition("\n")[0]
    if not name or name.startswith("Copyright"):
        values = package.get_all("Classifier") or []
        found = [value for value in values if value.startswith(CLASSIFIER)]
        name = ", ".join(value.rpartition(" :: ")[2] for value in found)
    if not name and (files := package.get_all("License-File")):
        name = f"in its file {files[0]}"
    return re.sub(r"\s+", " ", name).replace("|", "/")[:MAX_CHARACTERS] or "not declared"


if __name__ == "__main__":
    sys.exit(main())
