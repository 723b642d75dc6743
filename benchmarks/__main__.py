"""Run cases of the benchmarks, and write benchmarks/results/.

    python -m benchmarks [CASE …]        main unless named; all is every one

Absolute numbers are this machine's at this moment: ratios count.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import machine, results
from benchmarks.case import Bench
from benchmarks.cases import CASES


def main() -> int:
    """Measure the cases one after the other; a case that fails does not keep the others from it."""
    options = _options()
    chosen = list(CASES) if "all" in options.cases else options.cases
    here = machine.describe()
    failed = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder), options.rounds, options.starts, options.jobs)
        for name in chosen:
            print(f"{name}: {CASES[name].what}", file=sys.stderr, flush=True)
            try:
                results.save(options.out, CASES[name], here, CASES[name].measure(bench))
            except (RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
                failed.append(f"{name} failed: {error}")
    print(results.publish(options.out, CASES))
    print("\n".join(failed), file=sys.stderr)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    names = [f"  {case.name:<14}{case.what}" for case in CASES.values()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run cases of the benchmarks, and write benchmarks/results/.",
        epilog="\n".join(["cases:", *names, "  all           every one of them"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "cases", nargs="*", default=["main"], choices=[*CASES, "all"], metavar="CASE"
    )
    parser.add_argument("--rounds", type=int, default=2, help="jobs per stream")
    parser.add_argument("--starts", type=int, default=2, help="of each contender in main")
    parser.add_argument("--jobs", type=int, default=20_000, help="of memory")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
