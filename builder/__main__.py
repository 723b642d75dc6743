"""From a model's name to a running endpoint: the builder's commands.

    python -m builder plan MODEL          which GPU fits, how many requests it holds, what it costs
    python -m builder fetch MODEL         a pre-quantized checkpoint, pinned and verified
    python -m builder quantize MODEL      an AWQ or FP8 checkpoint, where there is none
    python -m builder deploy              a Runpod template and endpoint, up to the first answer
    python -m builder status NAME         how an endpoint is
    python -m builder logs NAME           what its workers say
    python -m builder delete NAME         the end of it

Each has --help.
"""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "plan": ("builder.plan.command", "main"),
    "fetch": ("builder.fetch.command", "main"),
    "quantize": ("builder.quantize.command", "main"),
    "deploy": ("builder.deploy.command", "deploy"),
    "status": ("builder.deploy.command", "status"),
    "logs": ("builder.deploy.command", "logs"),
    "delete": ("builder.deploy.command", "delete"),
}
EXIT_ARGUMENT = 2
EXIT_PACKAGES = 4


def main(argv: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(str(__doc__).strip())
        return 0
    if name not in COMMANDS:
        print(f"builder: there is no {name!r}, only {', '.join(COMMANDS)}.", file=sys.stderr)
        return EXIT_ARGUMENT
    module, function = COMMANDS[name]
    try:
        command = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        print(f"builder: {_packages(name, str(error.name))}", file=sys.stderr)
        return EXIT_PACKAGES
    return int(command(argv[1:]))


def _packages(command: str, missing: str) -> str:
    return (
        f"{command} needs the package {missing}, which this Python does not have: call it as "
        f".venv/bin/python -m builder {command}, after `make run` has made that environment."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
