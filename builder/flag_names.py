"""Write down which flags the installed engine has, for the worker where the other one runs.

    python -m builder.flag_names vllm|sglang

A setting that only the other engine has stops the worker's start; this is how it knows the name.
"""

import argparse
import json
import sys

from handler.engine.aliases import FLAG_NAMES
from handler.engine.flags import EngineFlags
from handler.engine.sglang import flags as sglang
from handler.engine.vllm import flags as vllm

FLAGS = {"vllm": vllm.engine_flags, "sglang": sglang.engine_flags}


def names(engine: str) -> dict[str, list[str]]:
    """Return the variables that the engine's parser knows; it has to be installed.

    Returns:
        `off`: the switches that are off unless they are set; `other`: the other flags.
    """
    flags: EngineFlags = FLAGS[engine]()
    off = {name for name in flags.names if flags.is_off(name)}
    return {"off": sorted(off), "other": sorted(flags.names - off)}


def main() -> int:
    """Rewrite one engine's list."""
    parser = argparse.ArgumentParser(
        prog="python -m builder.flag_names",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engine", choices=FLAGS)
    engine = parser.parse_args().engine
    known = json.loads(FLAG_NAMES.read_text(encoding="utf-8")) if FLAG_NAMES.exists() else {}
    text = json.dumps(known | {engine: names(engine)}, indent=1, sort_keys=True)
    FLAG_NAMES.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
