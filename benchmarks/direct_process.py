"""One variant of the case `direct`, in a process of its own.

python -m benchmarks.direct_process RUN RESULT    the JSON of a `DirectRun`, a file for figures
"""

import json
import os
import sys
import traceback
from pathlib import Path

from benchmarks.direct import DirectRun, ResultFile, run_engine


def main() -> None:
    """Measure, and end without the interpreter's own end, which could wait for engine threads."""
    run, result = DirectRun(**json.loads(sys.argv[1])), ResultFile(Path(sys.argv[2]))
    code = 0
    try:
        if run.target == "engine":
            run_engine(run, result)
        else:
            # Imported here: a run of the engine alone must not import the worker's modules.
            from benchmarks.direct_worker import run_worker

            run_worker(run, result)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
