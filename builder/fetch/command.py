"""Fetch a pre-quantized checkpoint from the hub, pinned to a commit and verified.

    python -m builder fetch Qwen/Qwen2.5-7B-Instruct-AWQ

makes `models/qwen2.5-7b-instruct-awq` with a manifest.json and prints its path. Only the files that
an engine loads are downloaded. The folder appears complete or not at all. At the same commit it is
kept; at another commit it is replaced. A gated repository needs HF_TOKEN in the environment, or as
a build secret. HF_ENDPOINT selects another hub.

Exit codes: 0 done; 1 interrupted; 2 a wrong argument, or a checkpoint that is not accepted; 3 the
hub does not provide it, or the disk is too small; 4 the folder cannot be written, or a file does
not match the hub's checksum.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from builder.cli import Console, command_parser, run_command
from builder.fetch.request import FetchRequest, Kind, hub_token
from builder.fetch.verified_download import fetch_repository


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Fetch one repository and print its folder."""
    options = _parser(environ).parse_args(argv)

    def work(console: Console) -> None:
        request = FetchRequest(
            repository=options.repository,
            revision=options.revision or "main",
            kind=options.kind,
            quantization=options.quantization.lower() or "auto",
            patterns=tuple(options.allow_patterns.replace(",", " ").split()),
            token=hub_token(environ),
        )
        folder = options.out or Path("models", request.repository.rpartition("/")[2].lower())
        console.print(fetch_repository(request, folder))

    return run_command("fetch", work)


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = command_parser("fetch", str(__doc__))
    add = parser.add_argument
    add("repository", help="org/name on the hub")
    add("--revision", default="main", help="branch, tag or commit (default: main)")
    add(
        "--kind",
        choices=get_args(Kind),
        default="model",
        help="a draft model may be unquantized, a tokenizer has no weights, a LoRA adapter is "
        "loaded beside a model (default: model)",
    )
    add(
        "--quantization",
        default=environ.get("QUANTIZATION", "auto"),
        metavar="METHOD",
        help="auto: AWQ or FP8; none: an unquantized checkpoint; or the required method "
        "(default: QUANTIZATION, or auto)",
    )
    add(
        "--allow-patterns",
        default=environ.get("ALLOW_PATTERNS", ""),
        metavar="PATTERNS",
        help="download only files that match, such as '*.json *.txt pytorch_model*.bin'; pickle "
        "files need a pattern that ends in their suffix (default: ALLOW_PATTERNS)",
    )
    add("--out", type=Path, metavar="FOLDER", help="the folder to make (default: models/NAME)")
    return parser
