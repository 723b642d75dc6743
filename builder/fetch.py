"""Fetch a pre-quantized checkpoint: pinned to a commit, only what the engine loads, verified.

    python -m builder fetch Qwen/Qwen2.5-7B-Instruct-AWQ

makes `models/qwen2.5-7b-instruct-awq` with a manifest.json and prints its path. The folder appears
whole or not at all; at the same commit it is kept, at another it is replaced. A gated repository
needs HF_TOKEN in the environment, or as the build's secret. HF_ENDPOINT names another hub.

Exit codes: 0 done; 1 interrupted; 2 a wrong argument, or a checkpoint that is refused; 3 the hub
does not give it, or the disk does not take it; 4 the folder cannot be made, or a file is not what
the hub says it is.
"""

import argparse
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from pydantic import SecretStr

from builder.checksums import checksums
from builder.cli import Console, command_parser, exit_process, run_command
from builder.errors import CheckpointRefused, DamagedFile
from builder.folder import alone, level_dates, strangers, whole
from builder.order import PICKLE_INDEX, Kind, Order, check, choose
from handler.errors import ModelUnavailable, StartError
from handler.model import hub
from handler.model.checkpoint import INDEX, quantization_of, shards
from handler.model.manifest import MANIFEST_NAME, Manifest, ManifestFile, read_manifest
from handler.setting_types import check_token

log = logging.getLogger("fetch")

SECRET = Path("/run/secrets/HF_TOKEN")  # where Docker puts the build's secret of this name
CONFIGURATION = ("config.json", "hf_quant_config.json", INDEX, PICKLE_INDEX)
DOWNLOADS = 2  # of a file that arrives damaged


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Fetch one repository and print the folder; one line on stderr if that fails."""
    options = _parser(environ).parse_args(argv)

    def work(console: Console) -> None:
        order = _order(options, environ)
        folder = options.out or Path("models", order.repository.rpartition("/")[2].lower())
        console.print(fetch(order, folder))

    return run_command("fetch", work)


def fetch(order: Order, folder: Path) -> Path:
    """Return the finished folder, fetched now unless it is there at the same commit.

    Raises:
        CheckpointRefused: it is not what was asked for, or the folder is something else.
        DamagedFile: a file is not what the hub says it is.
        ModelUnavailable: the hub's refusal, or too little space, in one sentence.
    """
    target = folder.resolve()
    found = hub.list_repository(order.reference())
    with alone(target.with_name(f".{target.name}.lock")):
        there = _fetched_before(order, target)
        if there and _is_whole(there, order, found.commit, target):
            if order.kind == "model":
                check(order, there.quantization)
            log.info("%s is at commit %s, nothing to do", folder, found.commit)
            return folder
        log.info("%s %s is commit %s", order.repository, order.revision, found.commit)
        with whole(target) as part:
            _fill(part, order, found)
    return folder


def _fetched_before(order: Order, folder: Path) -> Manifest | None:
    """Return the manifest of a folder that may be replaced, None where there is nothing yet."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    there = None
    with suppress(StartError):
        there = read_manifest(folder)
    what = "is something else"
    if there and (there.repository, there.kind) == (order.repository, order.kind):
        others = strangers(folder, {MANIFEST_NAME, *(file.path for file in there.files)})
        if not others:
            return there
        what = f"has files that were not fetched, such as {others[0]}"
    elif there:
        what = f"holds {there.repository} as a {there.kind}"
    raise CheckpointRefused(f"{folder} {what}: choose another --out, or remove it.")


def _fill(part: Path, order: Order, found: hub.RepoListing) -> None:
    by_path = {file.path: file for file in found.files}
    first = [name for name in CONFIGURATION if name in by_path]
    _download(part, order, found, [by_path[name] for name in first])
    try:
        index = shards(part) or (shards(part, PICKLE_INDEX) if order.patterns else None)
        quantization = quantization_of(part) if "config.json" in first else None
    except ModelUnavailable as error:
        raise CheckpointRefused(f"{order.repository}: {error}.") from error
    names = [n for n in choose(order, by_path, index) if n != MANIFEST_NAME]
    for name in set(first) - set(names):
        (part / name).unlink()
    if order.kind == "model":
        check(order, quantization)
    _download(part, order, found, [by_path[name] for name in names])
    files = [_verified(part, order, found, by_path[name]) for name in names]
    shutil.rmtree(part / ".cache", ignore_errors=True)  # huggingface-hub's notes
    level_dates(part)
    written = Manifest(
        repository=order.repository,
        revision=order.revision,
        commit=found.commit,
        kind=order.kind,
        patterns=order.patterns,
        quantization=quantization if order.kind in ("model", "draft") else None,
        licence=found.licence,
        files=tuple(files),
        total_bytes=sum(file.bytes for file in files),
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    written.write(part)
    log.info(
        "%d files, %.1f MB, every checksum is right; quantization %s, licence %s",
        *(len(files), written.total_bytes / 1e6),
        *(written.quantization or "none", found.licence or "unknown"),
    )


def _download(
    part: Path, order: Order, found: hub.RepoListing, files: Sequence[hub.RemoteFile]
) -> None:
    if files:
        hub.download_files(order.reference(), found.commit, files, folder=part)


def _verified(
    part: Path, order: Order, found: hub.RepoListing, file: hub.RemoteFile
) -> ManifestFile:
    """Compare a file with the hub's size and checksum; fetch it again if it is damaged."""
    path = part / file.path
    for attempt in range(DOWNLOADS):
        size, sha256, git_oid = checksums(path, with_git=file.git_oid is not None)
        if size == file.bytes and file.sha256 in (None, sha256) and file.git_oid in (None, git_oid):
            return ManifestFile(path=file.path, bytes=size, sha256=sha256)
        log.warning("%s arrived damaged", file.path)
        if attempt + 1 < DOWNLOADS:
            path.unlink()
            _download(part, order, found, [file])
    expected = f"{file.bytes} bytes with {file.sha256 or file.git_oid}"
    raise DamagedFile(
        f"{order.repository}/{file.path} is damaged: the hub says {expected}, "
        f"{size} bytes with {sha256 if file.sha256 else git_oid} arrived."
    )


def _is_whole(there: Manifest, order: Order, commit: str, folder: Path) -> bool:
    """Whether a folder holds just what the order asks for."""
    if (there.commit, there.kind, there.patterns) != (commit, order.kind, order.patterns):
        return False
    try:
        there.check(folder)
    except StartError as error:
        log.warning("%s", error)
        return False
    return True


def _order(options: argparse.Namespace, environ: Mapping[str, str]) -> Order:
    return Order(
        repository=options.repository,
        revision=options.revision or "main",
        kind=options.kind,
        quantization=options.quantization.lower() or "auto",
        patterns=tuple(options.allow_patterns.replace(",", " ").split()),
        token=token_in(environ),
    )


def token_in(environ: Mapping[str, str]) -> SecretStr | None:
    """Return the token from the environment, or from a build's secret where there is one."""
    token, source = environ.get("HF_TOKEN", "").strip(), "HF_TOKEN"
    if not token and SECRET.is_file():
        token, source = SECRET.read_bytes().decode("latin-1").strip(), f"the secret {SECRET.name}"
    try:
        return check_token(SecretStr(token)) if token else None
    except ValueError as error:
        raise CheckpointRefused(f"{source} should be {error}.") from error


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    made = command_parser("fetch", str(__doc__))
    add = made.add_argument
    add("repository", help="org/name on the hub")
    add("--revision", default="main", help="branch, tag or commit (main)")
    add(
        "--kind",
        choices=get_args(Kind),
        default="model",
        help="a draft need not be quantized, a tokenizer comes without weights, a LoRA "
        "adapter beside a model (model)",
    )
    add(
        "--quantization",
        default=environ.get("QUANTIZATION", "auto"),
        metavar="METHOD",
        help="auto: AWQ or FP8; none: an unquantized checkpoint; or what it has to be "
        "(QUANTIZATION, or auto)",
    )
    add(
        "--allow-patterns",
        default=environ.get("ALLOW_PATTERNS", ""),
        metavar="PATTERNS",
        help="take these files and no others, such as '*.json *.txt pytorch_model*.bin'; pickle "
        "needs a pattern with its suffix (ALLOW_PATTERNS)",
    )
    add("--out", type=Path, metavar="FOLDER", help="the folder to make (models/NAME)")
    return made


if __name__ == "__main__":
    exit_process(main())
