"""Quantize a model with llm-compressor: FP8 without data, or AWQ with text to calibrate on.

    python -m builder quantize org/name --to fp8
    python -m builder quantize ./models/name --to awq --dataset chats.jsonl

makes `models/name-fp8` (or -awq) in the format compressed-tensors, which both engines serve, with
the manifest that `builder fetch` writes, and prints its path. MODEL is a folder, or a repository
that is fetched first, into a folder beside the new one that stays there. The new one appears whole
or not at all; a finished one by the same recipe is kept, any other is refused. Perplexity before
and after is measured on text that did not calibrate, and kept in the folder's README.md. No code of
the model's is run.

It needs an environment of its own, `make .venv-quantize/cpu`; on a machine with a GPU install its
torch first, and then `pip install --no-deps -r requirements/quantize.txt` beside it. The model has
to fit into main memory as it is, unquantized; AWQ works on one layer after the other.

Exit codes: 0 done; 1 interrupted; 2 a wrong argument, or a model, text or folder that is refused;
3 the hub does not give it; 4 the folder cannot be made: the disk does not take it, or
llm-compressor is not there or does not get through the model.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from builder.cli import Console, command_parser, run_command, whole_number
from builder.errors import InvalidArgument
from builder.fetch import token_in
from builder.quantize import base, source
from builder.quantize.checkpoint import make
from builder.quantize.recipe import GROUP_SIZES, Method, Recipe
from builder.quantize.run import Work, look
from handler.model.checkpoint import json_object

SEQUENCE_TOKENS = 512
LEAST_TOKENS = 16
SAMPLES = 128
GRID = 20


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Quantize one model and print the folder; one line on stderr if that fails."""
    options = _parser().parse_args(argv)

    def work(console: Console) -> None:
        _check(options)
        look()
        folder = _folder(options)
        console.print(make(_work(options, environ, folder.parent), folder))

    return run_command("quantize", work)


def _check(options: argparse.Namespace) -> None:
    """Refuse what can be known to be wrong before anything is fetched.

    Raises:
        InvalidArgument: with what would be right.
    """
    if options.to == "awq" and not options.dataset:
        raise InvalidArgument(
            "--to awq needs text to calibrate with: give --dataset FILE (.jsonl, .txt or "
            ".parquet) or --dataset org/name of a data set on the hub. --to fp8 needs none."
        )


def _folder(options: argparse.Namespace) -> Path:
    """Return the folder to make."""
    name = Path(options.model).expanduser().resolve().name.lower()
    folder: Path = options.out or Path("models", f"{name}-{options.to}")
    if Path(options.model).is_dir() and folder.resolve() == Path(options.model).resolve():
        raise InvalidArgument(f"--out {folder} is the model itself: choose another.")
    return folder


def _work(options: argparse.Namespace, environ: Mapping[str, str], place: Path) -> Work:
    token = token_in(environ)
    model = base.find(options.model, options.revision, token, place)
    dataset = None
    if options.dataset:
        dataset = source.find(
            options.dataset, options.dataset_revision, options.dataset_file, token
        )
    given = source.local(options.held_out) if options.held_out else None
    held_out = given or dataset or source.local(source.SHIPPED)
    calibrates = dataset if options.to == "awq" else None
    recipe = Recipe(
        base=model.repository,
        commit=model.commit,
        method=options.to,
        held_out=held_out.identity() + (" (its last tenth)" if held_out == dataset else ""),
        sequence_tokens=_sequence_tokens(options.sequence_length, model),
        dataset=calibrates.identity() if calibrates else None,
        samples=options.samples if calibrates else None,
        grid=options.grid if calibrates else None,
        group_size=options.group_size if calibrates else None,
    )
    return Work(model, recipe, dataset, held_out)


def _sequence_tokens(asked: int | None, model: base.Base) -> int:
    """Return the length of a sample: no longer than what the model reads."""
    longest = json_object(model.folder / "config.json").get("max_position_embeddings")
    if not isinstance(longest, int):
        return asked or SEQUENCE_TOKENS
    if asked and asked > longest:
        raise InvalidArgument(
            f"--sequence-length {asked} is longer than the {longest} tokens of the model."
        )
    return asked or min(SEQUENCE_TOKENS, longest)


def _parser() -> argparse.ArgumentParser:
    made = command_parser("quantize", str(__doc__))
    add = made.add_argument
    add("model", metavar="MODEL", help="a folder, or org/name on the hub; not quantized")
    add("--to", choices=get_args(Method), required=True, help="FP8 dynamic, or four-bit AWQ")
    add("--revision", help="branch, tag or commit of a repository (main)")
    add("--out", type=Path, metavar="FOLDER", help="the folder to make (models/NAME-METHOD)")
    add(
        "--dataset",
        metavar="FILE|NAME",
        help="text to calibrate with: .jsonl with text or messages in each line, .txt, .parquet, "
        "or org/name of a data set on the hub",
    )
    add("--dataset-revision", default="main", help="branch, tag or commit of a data set (main)")
    add(
        "--dataset-file",
        metavar="PATH",
        help="the file of a data set to take (the first with train in its path, else the first)",
    )
    add(
        "--held-out",
        type=Path,
        metavar="FILE",
        help="text to compare on (the last tenth of the data set; without one, a text that comes "
        "with this program)",
    )
    add(
        "--samples",
        type=whole_number(1),
        default=SAMPLES,
        metavar="N",
        help=f"how many windows of text calibrate ({SAMPLES})",
    )
    add(
        "--sequence-length",
        type=whole_number(LEAST_TOKENS),
        metavar="TOKENS",
        help=f"of a sample, and of a window to compare on ({SEQUENCE_TOKENS}, or the model's)",
    )
    add(
        "--grid",
        type=whole_number(4),
        default=GRID,
        metavar="N",
        help=f"how many scales AWQ tries for each group of layers: fewer are faster ({GRID})",
    )
    add(
        "--group-size",
        type=int,
        choices=GROUP_SIZES,
        help="inputs of AWQ's groups: smaller ones cost memory and lose less, which small models "
        "notice (128 where it divides every layer, else 32)",
    )
    return made
