"""`python -m simulated_gpu [--gpu h100] [--count 2] -- COMMAND…`: run a command beside GPUs that
do not exist.

NVML shows the GPUs to the command, and the engine of ENGINE is the simulated one, unless
`--no-engine`. The command must run in an environment with that engine's CUDA build, such as
`.venv-cuda`.

Exit codes: the command's; 127 when it cannot be started, 1 without a C compiler.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from simulated_gpu.gpu import GPUS, LIBRARIES, build_libraries, host_environment


def main(arguments: Sequence[str]) -> int:
    """Replace this process by the command; return only if that fails."""
    options = _parse_arguments(arguments)
    libraries = LIBRARIES.expanduser()
    try:
        build_libraries(libraries)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"a C compiler (cc) is needed: {error}", file=sys.stderr)
        return 1
    gpu = GPUS[options.gpu]
    engine = os.environ.get("ENGINE", "vllm")
    variables = host_environment(
        libraries, gpu, options.count, engine=engine, executor=options.engine
    )
    for name in ("LD_LIBRARY_PATH", "PYTHONPATH"):
        variables[name] = os.pathsep.join(filter(None, (variables[name], os.environ.get(name))))
    try:
        os.execvpe(options.command[0], options.command, {**variables, **_set_by_user(variables)})
    except OSError as error:
        print(f"{options.command[0]}: {error.strerror}", file=sys.stderr)
        return 127


def _set_by_user(variables: dict[str, str]) -> dict[str, str]:
    """Return the process's own environment, without the paths that `variables` has extended."""
    extended = {"LD_LIBRARY_PATH", "PYTHONPATH"} & set(variables)
    return {name: value for name, value in os.environ.items() if name not in extended}


def _parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m simulated_gpu",
        description="Runs a command beside GPUs that do not exist, with an engine that computes "
        "nothing.",
    )
    parser.add_argument("--gpu", choices=sorted(GPUS), default="h100", help="(default: h100)")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="how many (default: 1)")
    parser.add_argument(
        "--no-engine",
        dest="engine",
        action="store_false",
        help="leave the engine as it is: the start ends at the first call of CUDA",
    )
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the command, after --")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
