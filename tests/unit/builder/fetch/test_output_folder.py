"""The folder that a command makes, and the lock around it."""

import fcntl

from builder.fetch.output_folder import exclusive_lock


def test_waiting_for_another_process_is_reported(tmp_path):
    path, lines = tmp_path / "lock", []
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def report(line):
            lines.append(line)
            fcntl.flock(other, fcntl.LOCK_UN)

        with exclusive_lock(path, report):
            assert lines == [f"waiting for another process that holds {path}"]
