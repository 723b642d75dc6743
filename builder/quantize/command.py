"""Quantize a model with llm-compressor: FP8 without data, or AWQ with text to calibrate on.

    python -m builder quantize org/name --to fp8
    python -m builder quantize ./models/name --to awq --dataset chats.jsonl

makes `models/name-fp8` (or -awq) in the format compressed-tensors, which both engines serve, with a
manifest like that of `builder fetch`, and prints its path. MODEL is a folder or a repository; a
repository is fetched into a folder beside the new one, and stays there. The new folder is complete
or absent. A finished one with the same recipe is kept; any other is an error. Perplexity before and
after is measured on text that was not used for calibration, and written to the folder's README.md.
Code in the model's repository is not run.

It needs an environment of its own, `make .venv-quantize/cpu`; on a machine with a GPU install its
torch first, and then `pip install --no-deps -r requirements/quantize.txt`. The unquantized model
has to fit into main memory; AWQ works on one layer after the other.

Exit codes: 0 done; 1 interrupted; 2 an invalid argument, model, text or folder;
3 the hub does not provide it; 4 the folder cannot be written, or llm-compressor is missing or fails
on the model.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from builder.cli import Console, command_parser, run_command, whole_number
from builder.errors import InvalidArgument, QuantizationFailed
from builder.fetch.request import hub_token
from builder.quantize.inputs import (
    DEFAULT_HELD_OUT,
    BaseCheckpoint,
    find_base,
    find_text,
    local_text,
)
from builder.quantize.quantization import QuantizationTask, quantize_to_folder
from builder.quantize.recipe import GROUP_SIZES, Method, QuantizationRecipe
from handler.model.checkpoint import json_object

DEFAULT_SEQUENCE_TOKENS = 512
MIN_SEQUENCE_TOKENS = 16
MIN_GRID = 4


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    options = _parser().parse_args(argv)

    def work(console: Console) -> None:
        if options.to == "awq" and not options.dataset:
            raise InvalidArgument(
                "--to awq needs text to calibrate on: give --dataset FILE (.jsonl, .txt or "
                ".parquet) or --dataset org/name of a data set on the hub. --to fp8 needs none."
            )
        _require_llm_compressor()
        folder = _output_folder(options)
        quantize_to_folder(_task(options, environ, folder.parent), folder)
        console.print(folder)

    return run_command("quantize", work)


def _require_llm_compressor() -> None:
    if find_spec("llmcompressor") is None:
        raise QuantizationFailed(
            f"llm-compressor is not installed in {sys.prefix}. Run `make .venv-quantize/cpu`, then "
            "this command with `.venv-quantize/bin/python`."
        )


def _output_folder(options: argparse.Namespace) -> Path:
    name = Path(options.model).expanduser().resolve().name.lower()
    folder: Path = options.out or Path("models", f"{name}-{options.to}")
    if Path(options.model).is_dir() and folder.resolve() == Path(options.model).resolve():
        raise InvalidArgument(f"--out {folder} is the model itself: choose another.")
    return folder


def _task(options: argparse.Namespace, environ: Mapping[str, str], cache: Path) -> QuantizationTask:
    token = hub_token(environ)
    base = find_base(options.model, options.revision, token, cache)
    dataset = held_out = None
    if options.dataset:
        dataset = find_text(options.dataset, options.dataset_revision, options.dataset_file, token)
    if options.held_out:
        held_out = local_text(options.held_out)
    held_out = held_out or dataset or local_text(DEFAULT_HELD_OUT)
    recipe = QuantizationRecipe(
        base=base.repository,
        commit=base.commit,
        method=options.to,
        held_out=held_out.identity + (" (its last tenth)" if held_out == dataset else ""),
        sequence_tokens=_sequence_tokens(options.sequence_length, base),
    )
    if options.to == "awq" and dataset is not None:
        recipe = replace(
            recipe,
            dataset=dataset.identity,
            samples=options.samples,
            grid=options.grid,
            group_size=options.group_size,
        )
    return QuantizationTask(base, recipe, dataset, held_out)


def _sequence_tokens(asked: int | None, base: BaseCheckpoint) -> int:
    longest = json_object(base.folder / "config.json").get("max_position_embeddings")
    if not isinstance(longest, int):
        return asked or DEFAULT_SEQUENCE_TOKENS
    if asked and asked > longest:
        raise InvalidArgument(
            f"--sequence-length {asked} is longer than the model's {longest} tokens."
        )
    return asked or min(DEFAULT_SEQUENCE_TOKENS, longest)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("quantize", str(__doc__))
    add = parser.add_argument
    add("model", metavar="MODEL", help="a folder, or org/name on the hub; not quantized")
    add("--to", choices=get_args(Method), required=True, help="FP8 dynamic, or four-bit AWQ")
    add("--revision", help="branch, tag or commit of a repository (default: main)")
    add("--out", type=Path, metavar="FOLDER", help="output folder (default: models/NAME-METHOD)")
    add(
        "--dataset",
        metavar="FILE|NAME",
        help="text to calibrate on: a .jsonl file with text or messages in each line, a .txt or "
        ".parquet file, or org/name of a data set on the hub",
    )
    add(
        "--dataset-revision",
        default="main",
        help="the data set's branch, tag or commit (default: main)",
    )
    add(
        "--dataset-file",
        metavar="PATH",
        help="which file of a data set (default: the first with train in its path, else the first)",
    )
    add(
        "--held-out",
        type=Path,
        metavar="FILE",
        help="text to measure perplexity on (default: the data set's last tenth, or a story)",
    )
    add(
        "--samples",
        type=whole_number(1),
        default=128,
        metavar="N",
        help="windows of text to calibrate on (default: %(default)s)",
    )
    add(
        "--sequence-length",
        type=whole_number(MIN_SEQUENCE_TOKENS),
        metavar="TOKENS",
        help=f"length of a window (default: {DEFAULT_SEQUENCE_TOKENS}, or the model's limit)",
    )
    add(
        "--grid",
        type=whole_number(MIN_GRID),
        default=20,
        metavar="N",
        help="scales that AWQ tries for each group of layers (default: %(default)s)",
    )
    add(
        "--group-size",
        type=int,
        choices=GROUP_SIZES,
        help="inputs per AWQ group (default: 128 if it divides every layer, else 32)",
    )
    return parser
