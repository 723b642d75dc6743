"""Fetch the LoRA adapters in LORA_MODULES, each into a folder of its name.

    LORA_MODULES='[{"name": "sql", "path": "org/sql"}]' \\
        python -m builder.fetch.lora --out models/lora

A worker serves the adapters in its image without further settings.

Exit codes: those of `python -m builder fetch`.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.cli import Console, command_parser, run_command
from builder.fetch.request import FetchRequest, hub_token
from builder.fetch.verified_download import fetch_repository
from handler.model.lora import SETTING, read


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Fetch every adapter and print the folders."""
    parser = command_parser("lora", str(__doc__), prog="python -m builder.fetch.lora")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    out: Path = parser.parse_args(argv).out

    def work(console: Console) -> None:
        for adapter in read(environ.get(SETTING, "")):
            request = FetchRequest(
                repository=adapter.source,
                revision=adapter.revision or "main",
                kind="lora",
                token=hub_token(environ),
            )
            console.print(fetch_repository(request, out / adapter.folder_name()))

    return run_command("fetch", work)


if __name__ == "__main__":
    sys.exit(main())
