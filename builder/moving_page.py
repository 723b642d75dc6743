"""Write the tables of docs/moving.md: what other workers' variables and job shapes do here.

    python -m builder.moving_page

`other_workers.json` has each variable of a worker's documentation, forms and code, with the first
and the last version that had it (null: the newest has it). What a variable does here is computed
from this worker's settings, flags, aliases and removed names. `job_shapes.json` has examples of
jobs; a test parses each.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from handler.engine.flags.aliases import ALIAS_NAMES, FLAG_NAMES, OTHER_ENGINE, TITLES, EngineName
from handler.engine.flags.removed_names import removed_names
from handler.settings.environ import setting_variables
from handler.settings.old_names import OLD_NAMES, SPECULATIVE_FIELDS, translate_old_names

PAGE = Path("docs/moving.md")
BLOCK = re.compile(
    r"(<!-- Written by `make docs`: ([\w -]+)\. -->\n)(.*?)(<!-- End -->)", re.DOTALL
)
WORKERS: Mapping[str, EngineName] = {"worker-vllm": "vllm", "worker-sglang": "sglang"}
ENGINES: tuple[EngineName, ...] = ("vllm", "sglang")

# Variables that a library of the image reads itself: variable → engines.
LIBRARY_VARIABLES: Mapping[str, tuple[EngineName, ...]] = {
    "HF_HOME": ENGINES,
    "HF_HUB_OFFLINE": ENGINES,
    "HUGGINGFACE_HUB_CACHE": ENGINES,
    "PYTORCH_ALLOC_CONF": ENGINES,
    "TOKENIZERS_PARALLELISM": ENGINES,
    "TRANSFORMERS_OFFLINE": ENGINES,
    "VLLM_USE_DEEP_GEMM": ("vllm",),
}

# An example value of each old name that still works.
EXAMPLES = {
    "ATTENTION_REDUCE_IN_FP32": "true",
    "CUDA_GRAPH_SIZES": "64",
    "DISABLE_DISK_CACHE": "true",
    "DISABLE_FLASHINFER": "true",
    "DISABLE_FLASHINFER_SAMPLING": "true",
    "DISABLE_MM_PREPROCESSOR_CACHE": "true",
    "ENABLE_FLASHINFER_MLA": "true",
    "ENABLE_MULTIMODAL_ENCODER_DATA_PARALLEL": "true",
    "EPLB_LOG_BALANCEDNESS": "true",
    "EPLB_STEP_INTERVAL": "500",
    "EPLB_WINDOW_SIZE": "100",
    "GUIDED_DECODING_BACKEND": "guidance",
    "GUIDED_DECODING_DISABLE_ADDITIONAL_PROPERTIES": "true",
    "GUIDED_DECODING_DISABLE_ANY_WHITESPACE": "true",
    "LIMIT_MM_PER_PROMPT": "image=2,video=0",
    "NUM_REDUNDANT_EXPERTS": "2",
    "OPENAI_RESPONSE_ROLE": "bot",
    "OVERRIDE_POOLER_CONFIG": '{"pooling_type": "MEAN"}',
    "SPECULATIVE_QUANTIZATION": "fp8",
    "TASK": "embed",
    "TOKENIZER_MODE": "slow",
    "VLLM_ATTENTION_BACKEND": "FLASHINFER",
    "WORKER_USE_RAY": "true",
}

Kind = Literal["works", "renamed", "gone", "stops", "silent"]


@dataclass(frozen=True)
class Outcome:
    """What a variable does with an engine.

    Attributes:
        kind: `stops`: only the other engine has it, which stops the start; `silent`: it is ignored
            without a message.
        text: the table's cell, empty where the kind is enough.
    """

    kind: Kind
    text: str = ""


def documented_names() -> dict[str, dict[str, tuple[str, str | None]]]:
    """Return each worker's names with the first and the last version that had them."""
    workers: dict[str, dict[str, tuple[str, str | None]]] = _data("other_workers.json")
    return workers


def job_shapes() -> list[dict[str, Any]]:
    """Return the examples of jobs."""
    shapes: list[dict[str, Any]] = _data("job_shapes.json")
    return shapes


def outcome(engine: EngineName, name: str) -> Outcome:
    """Return what a variable does with an engine."""
    flags = _flag_names()
    old = OLD_NAMES.get(name)
    if old and old.rule(engine) and (text := _translated(engine, name)):
        return Outcome("renamed", text)
    if engine in LIBRARY_VARIABLES.get(name, ()) or name in _own_names() | flags[engine]:
        return Outcome("works")
    if engine == "vllm" and name in SPECULATIVE_FIELDS:
        return Outcome("renamed", f"`{SPECULATIVE_FIELDS[name][0]}` in `SPECULATIVE_CONFIG`")
    if advice := removed_names(engine).get(name):
        return Outcome("gone", advice.removesuffix("."))
    return Outcome("stops" if name in flags[OTHER_ENGINE[engine]] else "silent")


def update(page: str) -> str:
    """Return the page with new text in each block.

    Raises:
        ValueError: the blocks are not those that this module writes.
    """
    made = {**{worker: _names(worker) for worker in WORKERS}, "job shapes": _shapes()}
    found = [block[1] for block in BLOCK.findall(page)]
    if sorted(found) != sorted(made):
        raise ValueError(f"{PAGE} must have the blocks {', '.join(made)}, and has {found}")
    return BLOCK.sub(lambda block: f"{block[1]}\n{made[block[2]]}\n{block[4]}", page)


def _names(worker: str) -> str:
    """Return the tables of a worker's names: renamed, gone, unchanged."""
    engine = WORKERS[worker]
    names = documented_names()[worker]
    by_kind: dict[Kind, list[str]] = {}
    for name in names:
        by_kind.setdefault(outcome(engine, name).kind, []).append(name)
    return "\n".join(
        [
            _renamed_table(worker, by_kind["renamed"]),
            _gone_table(worker, by_kind["gone"]),
            *_unchanged(engine, by_kind["works"]),
        ]
    )


def _renamed_table(worker: str, names: list[str]) -> str:
    rows = [
        (
            f"`{name}={EXAMPLES[name]}`" if name in EXAMPLES else f"`{name}`",
            _versions(worker, [name]),
            *(_cell(outcome(engine, name)) for engine in ENGINES),
        )
        for name in names
    ]
    return _table(
        "Old names that still work", "| set | in versions | with vLLM | with SGLang |", rows
    )


def _gone_table(worker: str, names: list[str]) -> str:
    """Return the names grouped by replacement; the other engine's is added where it differs."""
    engine = WORKERS[worker]
    other = OTHER_ENGINE[engine]
    groups: dict[str, list[str]] = {}
    for name in names:
        here, there = (_cell(outcome(each, name)) for each in (engine, other))
        differs = there not in (here, f"it was a setting of {TITLES[engine]}")
        text = f"{here}; with {TITLES[other]}: {there}" if differs else here
        groups.setdefault(text, []).append(name)
    rows = [(_codes(group), _versions(worker, group), text) for text, group in groups.items()]
    return _table("Names without effect", "| names | in versions | instead |", sorted(rows))


def _unchanged(engine: EngineName, names: list[str]) -> Iterator[str]:
    other = OTHER_ENGINE[engine]
    groups: dict[str, list[str]] = {}
    for name in names:
        kind = outcome(other, name).kind
        ending = {"stops": "; stops the start", "gone": "; no effect"}.get(kind, "")
        groups.setdefault(
            f"{ending} with {TITLES[other]}" if ending else f" and {TITLES[other]}", []
        ).append(name)
    for ending, group in sorted(groups.items()):
        summary = f"Unchanged with {TITLES[engine]}{ending}: {len(group)}"
        yield f"<details><summary>{summary}</summary>\n\n{_codes(group)}\n\n</details>\n"


def _shapes() -> str:
    rows = [
        (f"`{json.dumps(shape['input'])}`", shape["from"], shape["meaning"])
        for shape in job_shapes()
    ]
    return _table("", "| input | from | here |", rows)


def _translated(engine: EngineName, name: str) -> str:
    """Return the new variables for an old name's example, empty if the engine has no such name."""
    before = {name: EXAMPLES[name]}
    made, _ = translate_old_names(engine, before)
    return "" if made == before else " ".join(f"`{key}={value}`" for key, value in made.items())


def _cell(found: Outcome) -> str:
    kinds: dict[Kind, str] = {"works": "works", "stops": "stops the start"}
    return kinds.get(found.kind, found.text)


def _versions(worker: str, names: list[str]) -> str:
    ranges = [documented_names()[worker][name] for name in names]
    first = min((first for first, _ in ranges), key=_version)
    lasts = [last for _, last in ranges]
    return f"{first} –" if None in lasts else f"{first} – {max(filter(None, lasts), key=_version)}"


def _version(text: str) -> list[int]:
    return [int(part) for part in text.split(".")]


def _codes(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(title: str, header: str, rows: Sequence[tuple[str, ...]]) -> str:
    rule = "| --- " * (header.count("|") - 1) + "|"
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([*([f"#### {title}", ""] if title else []), header, rule, *lines, ""])


@cache
def _own_names() -> frozenset[str]:
    names = frozenset(name for names in setting_variables().values() for name in names)
    return names | ALIAS_NAMES


@cache
def _flag_names() -> dict[str, frozenset[str]]:
    engines = json.loads(FLAG_NAMES.read_text(encoding="utf-8"))
    return {engine: frozenset(kinds["off"] + kinds["other"]) for engine, kinds in engines.items()}


@cache
def _data(name: str) -> Any:
    return json.loads((files("builder") / name).read_text(encoding="utf-8"))


def main() -> int:
    """Rewrite the page."""
    argparse.ArgumentParser(
        prog="python -m builder.moving_page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    PAGE.write_text(update(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
