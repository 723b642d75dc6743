"""vLLM's own argument parser, and what it leaves unjudged."""

import argparse
import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from handler.engine.flags import EngineFlags, FlagError
from handler.engine.vllm.names import REFUSED
from handler.errors import BadSetting


def engine_flags() -> EngineFlags:
    """Return the flags that vLLM's own parser knows, without those of its server."""
    parser = cli_args().make_arg_parser(_parser_class()(allow_abbrev=False))
    return EngineFlags(parser, REFUSED)


def cli_args() -> ModuleType:
    """Return the module with vLLM's argument parser, which 0.33 has moved."""
    try:
        return importlib.import_module("vllm.entrypoints.common.cli_args")
    except ModuleNotFoundError:
        return importlib.import_module("vllm.entrypoints.launchers.cli_args")


def _parser_class() -> type[argparse.ArgumentParser]:
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        """vLLM's parser, which raises where argparse would print its usage and exit."""

        def error(self, message: str) -> NoReturn:
            raise FlagError(message)

    return Parser


def import_plugins(args: argparse.Namespace) -> None:
    """Import parsers of the user's own, which vLLM's launcher does where that runs."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for variable, path, take in (
        ("TOOL_PARSER_PLUGIN", args.tool_parser_plugin, ToolParserManager.import_tool_parser),
        (
            "REASONING_PARSER_PLUGIN",
            args.reasoning_parser_plugin,
            ReasoningParserManager.import_reasoning_parser,
        ),
    ):
        if path.endswith(".py") and not Path(path).is_file():
            raise BadSetting(f"{variable}={path!r} is no file; a module's name is right as well.")
        if path:
            take(os.path.abspath(path) if path.endswith(".py") else path)


def check_names(args: argparse.Namespace) -> None:
    """Judge three names that vLLM's parser takes as free text, and refuses only much later."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for variable, value, known in (
        ("TOOL_CALL_PARSER", args.tool_call_parser, ToolParserManager.list_registered()),
        ("REASONING_PARSER", args.reasoning_parser, ReasoningParserManager.list_registered()),
        ("QUANTIZATION", args.quantization, QUANTIZATION_METHODS),
    ):
        if value and value not in known:
            raise BadSetting(f"{variable}={value!r}: choose from {', '.join(sorted(known))}")
