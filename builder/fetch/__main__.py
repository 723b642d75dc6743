"""Fetch a pre-quantized checkpoint from the hub, pinned to a commit and verified.

    python -m builder fetch Qwen/Qwen2.5-7B-Instruct-AWQ
    LORA_MODULES='[{"name": "sql", "path": "org/sql"}]' python -m builder fetch --kind lora

The first makes `models/qwen2.5-7b-instruct-awq` with a manifest.json and prints its path; the
second fetches every adapter in LORA_MODULES into a folder of its name in `models/lora`. Only the
files that an engine loads are downloaded. A folder is complete or absent. At the same commit it is
kept; at another commit it is replaced. A gated repository needs HF_TOKEN in the environment, or as
a build secret. HF_ENDPOINT selects another hub. LOAD_FORMAT=mistral fetches Mistral's own format of
a repository that has both. Repositories that the configuration names, such as one with the model's
code, are fetched into the folder too.

Exit codes: 0 done; 1 interrupted; 2 an invalid argument, or a checkpoint that is not accepted; 3
the hub does not provide it, or the disk is too small; 4 the folder cannot be written, or a file
does not match the hub's checksum.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

from builder.cli import Console, command_parser, exit_process, run_command
from builder.fetch.request import FetchRequest, Kind, hub_token
from builder.fetch.verified_download import fetch_repository
from handler.model import mistral
from handler.model.lora import SETTING, parse_lora_modules
from handler.model.lora_check import check_adapter
from handler.settings.variables import clean_value, is_no_value


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Fetch a repository, or all adapters in LORA_MODULES, and print the folders."""
    parser = _parser(environ)
    options = parser.parse_args(argv)
    options.repository = _value(options.repository or "")
    if not options.repository and not (options.kind == "lora" and _value(environ.get(SETTING, ""))):
        parser.error("give a repository, or --kind lora and LORA_MODULES")

    def work(console: Console) -> None:
        for request, folder in _requests(options, environ):
            console.print(fetch_repository(request, folder))
            if request.kind == "lora":
                has_base = options.base and (options.base / "config.json").is_file()
                check_adapter(request.repository, folder, options.base if has_base else None)

    return run_command("fetch", work)


def _requests(
    options: argparse.Namespace, environ: Mapping[str, str]
) -> Iterator[tuple[FetchRequest, Path]]:
    """Yield each repository to fetch, with its folder."""
    token = hub_token(environ)
    if not options.repository:
        parent = options.out or Path("models/lora")
        for adapter in parse_lora_modules(_value(environ.get(SETTING, ""))):
            revision = adapter.revision or "main"
            request = FetchRequest(adapter.source, revision, kind="lora", token=token)
            yield request.resolve_url(), parent / adapter.folder_name()
        return
    method = clean_value(options.quantization)
    request = FetchRequest(
        repository=options.repository,
        revision=_value(options.revision) or "main",
        kind=options.kind,
        quantization=method if method == "none" else _value(method).lower() or "auto",
        patterns=tuple(_value(options.allow_patterns).replace(",", " ").split()),
        mistral_requested=options.kind == "model" and mistral.is_requested(environ),
        token=token,
    ).resolve_url()
    yield request, options.out or Path("models", request.repository.rpartition("/")[2].lower())


def _value(text: str) -> str:
    """Return a variable or build argument as the worker's settings read it."""
    value = clean_value(text)
    return "" if is_no_value(value) else value


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = command_parser("fetch", str(__doc__))
    add = parser.add_argument
    add("repository", nargs="?", help="org/name on the hub; optional with --kind lora")
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
    add(
        "--base",
        type=Path,
        metavar="FOLDER",
        help="with --kind lora: the model that the adapters must fit",
    )
    add("--out", type=Path, metavar="FOLDER", help="output folder (default: models/NAME)")
    return parser


if __name__ == "__main__":
    exit_process(main())
