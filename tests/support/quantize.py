"""`python -m builder quantize` in the environment with llm-compressor, and text for it."""

import json
import subprocess
from pathlib import Path

from tests.support.environment import MODELS, NAME, ROOT, clean_environment

PYTHON = ROOT / ".venv-quantize/bin/python"
DEMO = MODELS / f"{NAME}-bf16"
HELD_OUT = ROOT / "builder/quantize/held_out.txt"
CAPITALS = {
    **{"Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon"},
    **{"Poland": "Warsaw", "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm"},
    **{"Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo", "Kenya": "Nairobi"},
    **{"Peru": "Lima", "Chile": "Santiago", "Cuba": "Havana", "Canada": "Ottawa"},
}
CHATS = [
    [
        {"role": "user", "content": f"What is the capital of {country}?"},
        {"role": "assistant", "content": f"The capital of {country} is {city}."},
    ]
    for country, city in CAPITALS.items()
]
SMALL = ("--samples", "8", "--sequence-length", "128", "--grid", "4")


def start_quantize(*arguments, python=PYTHON, cwd=ROOT, **environ):
    return subprocess.Popen(
        [str(python), "-m", "builder", "quantize", *map(str, arguments)],
        cwd=cwd,
        env=clean_environment(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), **environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def quantize(*arguments, **options):
    """Run the command; return its exit code, its output and the lines of its log."""
    process = start_quantize(*arguments, **options)
    out, log = process.communicate(timeout=1200)
    return process.returncode, out, [line.removeprefix("quantize: ") for line in log.splitlines()]


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def write_chats(path: Path) -> Path:
    """Write JSON lines: chats, and the paragraphs of the builder's own text."""
    texts = [{"text": text.strip()} for text in HELD_OUT.read_text().split("\n\n")]
    return write_rows(path, *({"messages": chat} for chat in CHATS), *texts)
