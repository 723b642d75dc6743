"""Fetch the LoRA adapters that LORA_MODULES names, each into a folder of its name.

    LORA_MODULES='[{"name": "sql", "path": "org/sql"}]' python -m builder.lora --out models/lora

A worker whose image has them serves them without a setting. Exit codes: those of `builder.fetch`.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.fetch import fetch, token_in, told
from builder.order import Order
from handler.hub.lora import SETTING, read


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Fetch all of them and print their folders."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.lora",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    out: Path = parser.parse_args(argv).out

    def work() -> None:
        for one in read(environ.get(SETTING, "")):
            order = Order(
                repository=one.source,
                revision=one.revision or "main",
                kind="lora",
                token=token_in(environ),
            )
            print(fetch(order, out / one.folder_name()), flush=True)

    return told(work)


if __name__ == "__main__":
    sys.exit(main())
