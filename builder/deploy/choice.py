"""A preset, by a short word for it."""

import difflib
import re

from builder.deploy.errors import WrongOrder
from builder.presets import PRESETS, Preset


def slug(text: str) -> str:
    """Return a text as a name of letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def name_for(model: str) -> str:
    """Return what an endpoint with a model is called: the last part of its name."""
    return slug(model.rstrip("/").rpartition("/")[2])


def slugs(preset: Preset) -> tuple[str, str]:
    """Return the two words for a preset: of its own name, and of its model's."""
    return slug(preset.name.partition(":")[0]), name_for(preset.model)


def preset_named(text: str) -> Preset:
    """Find a preset by either word, or by its model's whole name.

    Raises:
        WrongOrder: there is none; the text names the nearest, or all.
    """
    words = {word: preset for preset in PRESETS for word in (*slugs(preset), preset.model)}
    if text in words:
        return words[text]
    known = [slugs(preset)[0] for preset in PRESETS]
    near = difflib.get_close_matches(text.lower(), words, n=1)
    advice = f"did you mean {near[0]}?" if near else f"take one of {', '.join(known)}."
    raise WrongOrder(f"There is no preset {text!r}: {advice}")


def listed() -> str:
    """Return the presets as a table for `--help`."""
    rows = [(*slugs(preset), preset.gpu) for preset in PRESETS]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"  {a:{first}}  {b:{second}}  {gpu}" for a, b, gpu in rows)
