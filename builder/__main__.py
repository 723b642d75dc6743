"""`python -m builder`."""

import sys

from builder.cli import exit_process, main

if __name__ == "__main__":
    exit_process(main(sys.argv[1:]))
