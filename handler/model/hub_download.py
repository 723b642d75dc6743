"""The process that downloads: `python -m handler.model.hub_download`, run by `client.py`.

It reads one JSON line, writes JSON lines, and ends when its input does, without the half of a file
that it was writing. Threads of huggingface-hub, which would first finish theirs, end with it.
"""

import json
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any, TextIO

from pydantic import SecretStr

from handler.errors import InvalidSetting, ModelUnavailable
from handler.model.hub import bytes_in
from handler.model.hub_errors import explained, patiently
from handler.model.reference import HubReference

OPENING_SECONDS = 0.1  # longer than a file that was noted takes to be there


class Answers(logging.Handler):
    """Lines of JSON for the process that waits; our own warnings are some of them."""

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Write a warning."""
        self.say("warning", record.getMessage())

    def say(self, kind: str, text: str) -> None:
        """Write one line."""
        print(json.dumps({kind: text}), file=self._file, flush=True)


def main() -> None:
    """Do what the line on stdin says."""
    # What a library prints must not come between the answers.
    answers = Answers(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    halves = Halves()
    sys.addaudithook(halves.note)
    threading.Thread(target=_end_with_parent, args=(halves,), daemon=True).start()
    logging.getLogger("handler").addHandler(answers)
    try:
        answers.say("path", str(download(order)))
    except InvalidSetting as error:
        answers.say("setting", str(error))
    except ModelUnavailable as error:
        answers.say("unavailable", str(error))
    os._exit(0)


def download(order: dict[str, Any]) -> Path:
    """Fetch the files that are not there yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    # Its warnings show signed addresses, and the import has set its level.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    name, files = order["name"], order["files"]
    token = SecretStr(order["token"]) if order["token"] else None
    reference = HubReference(name, order["revision"], order["setting"], token)

    def snapshot() -> Path:
        path = snapshot_download(
            name,
            revision=order["commit"],
            token=order["token"],
            cache_dir=order["cache"],
            local_dir=order["folder"],
            allow_patterns=[escape(file) for file in files],
        )
        # When the hub fails, huggingface-hub is content with what is there.
        if absent := [file for file in files if not Path(path, file).is_file()]:
            raise OSError(f"{name}: {absent[0]} did not arrive")
        return Path(path)

    with explained(reference):
        return patiently(snapshot, lambda: bytes_in(Path(order["place"])))


class Halves:
    """The files that huggingface-hub writes before it renames them, open or just closed."""

    def __init__(self) -> None:
        self._paths: list[Path] = []
        self._over = threading.Event()

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Write down a file before it is opened: an audit hook, see PEP 578."""
        if event == "open" and str(arguments[0]).endswith(".incomplete"):
            if self._over.is_set():
                threading.Event().wait()  # the process is about to end
            self._paths.append(Path(arguments[0]))

    def remove(self) -> None:
        """Let no more be opened, and remove what there is."""
        self._over.set()
        time.sleep(OPENING_SECONDS)
        for path in self._paths:
            with suppress(OSError):
                path.unlink()


def _end_with_parent(halves: Halves) -> None:
    sys.stdin.read()
    halves.remove()
    os._exit(1)


if __name__ == "__main__":
    main()
