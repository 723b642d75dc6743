"""All of an engine's flags, from every place where they may be set, judged by its own parser.

Later ones win: what the worker itself decides, the settings that both engines have, the variables
named like a flag, ENGINE_ARGS. Which flags an engine has, its adapter knows.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence

from handler.engine import aliases
from handler.engine.aliases import EngineName
from handler.engine.flags import EngineFlags, unused
from handler.engine.parallelism import with_counted_gpus
from handler.environ import variables
from handler.settings import Settings

log = logging.getLogger(__name__)


def parse(
    engine: EngineName,
    flags: EngineFlags,
    own: Sequence[str],
    settings: Settings,
    environ: Mapping[str, str],
    removed: Mapping[str, str],
) -> argparse.Namespace:
    """Return what the engine's parser makes of all flags, and warn of names without effect.

    Args:
        engine: the one that runs.
        flags: those that its parser takes.
        own: arguments that the worker itself has made of its settings.
        settings: the worker's.
        environ: variables that may name flags.
        removed: names of older versions, each with what to do instead.

    Raises:
        BadSetting: a flag or value that the engine does not take, or a setting of the other one.
    """
    mine = frozenset(name for names in variables().values() for name in names)
    _judge_names(engine, environ, mine | flags.names | aliases.NAMES, removed)
    counted = with_counted_gpus(environ)
    return flags.parse(
        [
            *own,
            *aliases.arguments(flags, engine, counted),
            *flags.from_environ(counted, mine | aliases.NAMES),
            *flags.from_text(settings.engine_args),
        ]
    )


def _judge_names(
    engine: EngineName,
    environ: Mapping[str, str],
    known: frozenset[str],
    removed: Mapping[str, str],
) -> None:
    aliases.refuse_foreign(engine, environ, known | removed.keys())
    for line in unused(environ, known, removed):
        log.warning(line)
