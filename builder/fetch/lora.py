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

from builder.fetch.request import FetchRequest, hub_token
from builder.fetch.verified_download import fetch_repository
from builder.told import parser, told
from handler.hub.lora import SETTING, read


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Fetch every adapter and print the folders."""
    arguments = parser("lora", str(__doc__), prog="python -m builder.fetch.lora")
    arguments.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    out: Path = arguments.parse_args(argv).out

    def work() -> None:
        for adapter in read(environ.get(SETTING, "")):
            request = FetchRequest(
                repository=adapter.source,
                revision=adapter.revision or "main",
                kind="lora",
                token=hub_token(environ),
            )
            print(fetch_repository(request, out / adapter.folder_name()), flush=True)

    return told("fetch", work)


if __name__ == "__main__":
    sys.exit(main())
