"""`python -m builder.quantize`."""

import sys

from builder.quantize.command import main

if __name__ == "__main__":
    sys.exit(main())
