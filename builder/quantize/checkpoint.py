"""The folder with the quantized model: kept where it is finished, else made whole or not at all."""

import logging
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from builder.checksums import checksums
from builder.errors import CheckpointRefused, QuantizationFailed
from builder.folder import alone, level_dates, strangers, whole
from builder.quantize import recipe
from builder.quantize.card import card
from builder.quantize.run import Work, run
from handler.errors import StartError
from handler.model import hub_files
from handler.model.checkpoint import method_matches, quantization_of
from handler.model.manifest import MANIFEST_NAME, Manifest, ManifestFile, read_manifest

log = logging.getLogger("quantize")

OWN = (recipe.NAME, MANIFEST_NAME, "recipe.json")  # the base's own say how the base was made
READABLE = 0o644  # transformers writes weights that only their owner may read


def make(work: Work, folder: Path) -> Path:
    """Return the finished folder, made now unless it is there by the same recipe.

    Raises:
        CheckpointRefused: the folder is something else, or the model cannot be quantized so.
        QuantizationFailed: llm-compressor does not get through it.
    """
    target = folder.resolve()
    with alone(target.with_name(f".{target.name}.lock")):
        if _is_made(work, folder):
            log.info("%s is finished, nothing to do", folder)
            return folder
        with whole(target) as part:
            _fill(part, work, target.name)
    return folder


def _is_made(work: Work, folder: Path) -> bool:
    """Say whether the folder is finished; one that is another's is not touched."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    there, made_by = None, folder / recipe.NAME
    with suppress(StartError):
        there = read_manifest(folder)
    if there is None or not made_by.is_file():
        raise CheckpointRefused(_taken(folder, "is something else"))
    if difference := work.recipe.difference(made_by.read_text(encoding="utf-8")):
        raise CheckpointRefused(_taken(folder, difference))
    if others := strangers(folder, {MANIFEST_NAME, *(file.path for file in there.files)}):
        raise CheckpointRefused(
            _taken(folder, f"has files that were not made, such as {others[0]}")
        )
    try:
        there.check(folder)
    except StartError as error:
        log.warning("%s", error)
        return False
    return True


def _taken(folder: Path, what: str) -> str:
    return f"{folder} {what}: choose another --out, or remove it."


def _fill(part: Path, work: Work, title: str) -> None:
    result = run(work, part)
    _copy(work.base.folder, part)
    text = card(title, work.base, work.recipe, work.held_out, result)
    (part / "README.md").write_text(text, encoding="utf-8")
    (part / recipe.NAME).write_text(work.recipe.text(), encoding="utf-8")
    _seal(part, work, title)
    for line in result.table():
        log.info("%s", line)


def _copy(base: Path, part: Path) -> None:
    """Copy the tokenizer, the licence and what else is small, and was not written anew.

    The tokenizer is copied as it is: a newer transformers would write it so that an older one,
    which an engine may have, cannot read it.
    """
    names = (path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file())
    for name in hub_files.select_files("tokenizer", names):
        if name not in OWN and not name.endswith("index.json") and not (part / name).exists():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / name, part / name)


def _seal(part: Path, work: Work, title: str) -> None:
    """Write the manifest, as a model's that was fetched."""
    found = quantization_of(part)
    if found is None or not method_matches(work.recipe.method, found):
        raise QuantizationFailed(
            f"what was written is quantized as {found!r}, not {work.recipe.method}."
        )
    files = []
    for path in sorted(path for path in part.rglob("*") if path.is_file()):
        path.chmod(READABLE)
        size, sha256, _ = checksums(path)
        files.append(
            ManifestFile(path=path.relative_to(part).as_posix(), bytes=size, sha256=sha256)
        )
    level_dates(part)
    base = work.base
    written = Manifest(
        # The name that callers use: a model of no hub has its own.
        repository=base.repository if base.is_of_the_hub else title,
        revision=base.revision,
        commit=base.commit,
        quantization=found,
        licence=base.licence,
        files=tuple(files),
        total_bytes=sum(file.bytes for file in files),
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    written.write(part)
    log.info("%d files, %.1f MB; quantization %s", len(files), written.total_bytes / 1e6, found)
