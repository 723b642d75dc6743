"""A program that answers like nvidia-smi: the machines that run the tests have no GPU."""

import stat


def fake_nvidia_smi(folder, monkeypatch, *memory_mib):
    """Put it first in PATH, saying how much memory each GPU has."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\n" + "".join(f"echo {mib}\n" for mib in memory_mib))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
