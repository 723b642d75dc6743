"""SGLang's own argument parser."""

import argparse
from typing import NoReturn

from handler.engine.flags import EngineFlags, FlagError
from handler.engine.sglang.names import REFUSED


def engine_flags() -> EngineFlags:
    """Return the flags that SGLang's own parser knows, without those of its servers."""
    from sglang.srt.server_args import ServerArgs

    parser = _Parser(allow_abbrev=False)
    ServerArgs.add_cli_args(parser)
    for action in parser._actions:
        action.required = False  # each flag is judged alone before all are parsed
    return EngineFlags(parser, REFUSED)


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise FlagError(message)
