"""Where text comes from: a file of this machine, or one file of a data set on the hub.

A data set's other files are never touched. It does not read the text.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import SecretStr

from builder.checksums import checksums
from builder.errors import DamagedFile, InvalidArgument
from builder.quantize.base import LOCAL, REPOSITORY
from builder.quantize.data import SUFFIXES
from handler.model.hub_errors import hub_errors_explained, retry
from handler.model.reference import HubReference

log = logging.getLogger("quantize")

SHIPPED = Path(__file__).with_name("held_out.txt")
NO_DATA = re.compile(r"(README|LICEN[CS]E|NOTICE|requirements)", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One file of text.

    Attributes:
        path: where it lies.
        name: what it is called in the card.
        sha256: of its content.
        dataset: the data set on the hub that it is of, None for a local file.
    """

    path: Path
    name: str
    sha256: str
    dataset: str | None = None

    def identity(self) -> str:
        """Return what the recipe knows it by."""
        return f"{self.name} sha256:{self.sha256}"


def local(path: Path) -> Source:
    """Return a file of this machine.

    Raises:
        InvalidArgument: there is none.
    """
    path = path.expanduser()
    if not path.is_file():
        raise InvalidArgument(f"{path} is no file: give one that ends in .jsonl, .txt or .parquet.")
    return Source(path, path.name, checksums(path)[1])


def find(name: str, revision: str, file: str | None, token: SecretStr | None) -> Source:
    """Return the file that --dataset names, fetched now if it is on the hub.

    Args:
        name: a file, or org/name of a data set.
        revision: of a data set: a branch, tag or commit.
        file: of a data set; without it the first that looks like training data is taken.
        token: for gated and private ones.

    Raises:
        InvalidArgument: there is no such file.
        DamagedFile: it is not what the hub says it is.
        ModelUnavailable, BadSetting: the hub's refusal, in one sentence.
    """
    path = Path(name).expanduser()
    if path.is_file() or path.suffix in SUFFIXES or name.startswith(LOCAL):
        return local(path)
    if not REPOSITORY.fullmatch(name):
        raise InvalidArgument(
            f"--dataset {name} is neither a file nor a data set on the hub (org/name)."
        )
    return _fetched(HubReference(name, revision, "DATASET_NAME", token), file)


def choose(name: str, names: list[str], wanted: str | None = None) -> str:
    """Choose the file to take: the one that is wanted, else the first with `train` in its name.

    Raises:
        InvalidArgument: there is none.
    """
    data = sorted(n for n in names if n.endswith(SUFFIXES) and not _is_no_data(n))
    if wanted is not None:
        if wanted not in data:
            shown = ", ".join(data[:5]) or "none that can be read"
            raise InvalidArgument(f"{name} has no {wanted} of a kind that is read; it has {shown}.")
        return wanted
    if not data:
        raise InvalidArgument(f"{name} has no file that ends in .jsonl, .txt or .parquet.")
    return next((n for n in data if "train" in n), data[0])


def _is_no_data(name: str) -> bool:
    return NO_DATA.match(PurePosixPath(name).name) is not None


def _fetched(reference: HubReference, wanted: str | None) -> Source:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    api, token = HfApi(token=reference.plain_token()), reference.plain_token()
    with hub_errors_explained(reference):
        info = retry(
            lambda: api.dataset_info(
                reference.name, revision=reference.revision, files_metadata=True
            )
        )
    files = {file.rfilename: file for file in info.siblings or ()}
    file = files[choose(reference.name, list(files), wanted)]
    commit = str(info.sha)
    log.info("%s of %s at commit %s", file.rfilename, reference.name, commit)
    with hub_errors_explained(reference):
        path = retry(
            lambda: hf_hub_download(
                reference.name,
                file.rfilename,
                repo_type="dataset",
                revision=commit,
                token=token,
            )
        )
    sha256 = checksums(Path(path))[1]
    if file.lfs and file.lfs.sha256 != sha256:
        raise DamagedFile(
            f"{reference.name}/{file.rfilename} is damaged: the hub says {file.lfs.sha256}, "
            f"{sha256} arrived. Remove {path} and try again."
        )
    shown = f"{reference.name}@{commit}/{file.rfilename}"
    return Source(Path(path), shown, sha256, reference.name)
