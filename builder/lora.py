"""Fetch the LoRA adapters that LORA_MODULES names, each into a folder of its name.

    LORA_MODULES='[{"name": "sql", "path": "org/sql"}]' python -m builder.lora --out models/lora

A worker whose image has them serves them without a setting. Exit codes: those of `builder.fetch`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.cli import Console, command_parser, exit_process, run_command
from builder.fetch import fetch, token_in
from builder.order import Order
from handler.model.lora import SETTING, parse_lora_modules


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Fetch all of them and print their folders."""
    made = command_parser("lora", str(__doc__), prog="python -m builder.lora")
    made.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    out: Path = made.parse_args(argv).out

    def work(console: Console) -> None:
        for one in parse_lora_modules(environ.get(SETTING, "")):
            order = Order(
                repository=one.source,
                revision=one.revision or "main",
                kind="lora",
                token=token_in(environ),
            )
            console.print(fetch(order, out / one.folder_name()))

    return run_command("fetch", work)


if __name__ == "__main__":
    exit_process(main())
