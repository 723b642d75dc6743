"""What is chosen by a word: a preset, and pools of GPUs as `builder/plan/gpus.json` has them."""

import difflib
import re

from builder.errors import InvalidArgument
from builder.plan.gpus import GpuPool, load_gpu_table
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
        InvalidArgument: there is none; the text names the nearest, or all.
    """
    words = _words()
    if text in words:
        return words[text]
    known = [slugs(preset)[0] for preset in PRESETS]
    near = difflib.get_close_matches(text.lower(), words, n=1)
    advice = f"did you mean {near[0]}?" if near else f"take one of {', '.join(known)}."
    raise InvalidArgument(f"There is no preset {text!r}: {advice}")


def made_of(word: str) -> str:
    """Say what `deploy` calls the endpoint of a preset's word; nothing where that is no news."""
    preset = _words().get(word)
    name = name_for(preset.model) if preset else word
    return f"deploy {word} makes {name}" if name != word else ""


def pools(text: str) -> list[str]:
    """Read GPU pools, with commas or spaces between them.

    Raises:
        InvalidArgument: there is no such pool; the text names the pool of such a card, or all.
    """
    cards = load_gpu_table().pools
    known = {card.name for card in cards}
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        words = part.split()
        # A card's name may be several words.
        for word in words if known.intersection(part.upper().split()) else [" ".join(words)]:
            if word.upper() not in known:
                raise InvalidArgument(f"There is no pool {word}: {_pool_of(word, cards)}.")
            found.append(word.upper())
    if not found:
        raise InvalidArgument(f"--gpu {text!r} names no pool: {_pool_of(text, cards)}.")
    return found


def _pool_of(text: str, cards: tuple[GpuPool, ...]) -> str:
    """Say which pool a card is in, by Runpod's name of it or a short one; else all pools."""
    own = [card.name for card in cards if any(_is_in(name, text) for name in card.gpu_names)]
    if own:
        return f"{text} is {' or '.join(own)}"
    return "take one of " + "; ".join(f"{card.name} ({card.label})" for card in cards)


def _is_in(card: str, text: str) -> bool:
    name = re.escape(card.lower().removeprefix("rtx "))
    return re.search(rf"(?<![a-z0-9]){name}(?![a-z0-9])", text.lower()) is not None


def _words() -> dict[str, Preset]:
    return {word: preset for preset in PRESETS for word in (*slugs(preset), preset.model)}


def listed() -> str:
    """Return the presets as a table for `--help`."""
    rows = [(*slugs(preset), preset.gpu) for preset in PRESETS]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"  {a:{first}}  {b:{second}}  {gpu}" for a, b, gpu in rows)
