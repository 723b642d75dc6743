"""`python -m builder.fetch`, which the image's build runs."""

import sys

from builder.fetch.command import main

sys.exit(main())
