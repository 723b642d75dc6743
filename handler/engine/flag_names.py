"""Write the installed engine's flags to flag_names.json.

    python -m handler.engine.flag_names vllm|sglang

A worker has one engine installed and reads the other engine's flags from this file: a setting that
only the other engine has stops the start.
"""

import argparse
import json
import sys

from handler.engine.flags.aliases import FLAG_NAMES
from handler.engine.sglang import flags as sglang
from handler.engine.vllm import flags as vllm

ENGINE_FLAGS = {"vllm": vllm.engine_flags, "sglang": sglang.engine_flags}


def flag_names(engine: str) -> dict[str, list[str]]:
    """Return the variables for the flags of an installed engine.

    Returns:
        `off`: the switches that are off by default; `other`: the other flags. Among these,
        `positive`: the flags whose values are above zero; `none`: those that have a value `none`.
    """
    flags = ENGINE_FLAGS[engine]()
    off = {name for name in flags.names if flags.is_off(name)}
    return {
        "off": sorted(off),
        "other": sorted(flags.names - off),
        "positive": sorted(flags.value_rules.positive),
        "none": sorted(flags.value_rules.words),
    }


def main() -> int:
    """Replace one engine's flags in the file."""
    parser = argparse.ArgumentParser(
        prog="python -m handler.engine.flag_names",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engine", choices=ENGINE_FLAGS)
    engine = parser.parse_args().engine
    known = json.loads(FLAG_NAMES.read_text(encoding="utf-8")) if FLAG_NAMES.exists() else {}
    text = json.dumps(known | {engine: flag_names(engine)}, indent=1, sort_keys=True)
    FLAG_NAMES.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
