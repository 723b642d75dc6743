"""What can go wrong while a model is fetched or made.

BuildError
├── WheelError   the demo model's package cannot be had, or is not the pinned one
└── GgufError    a GGUF file is not a Llama model in a form that we read

`main` of each command prints one as a line; a full disk or a missing right is an OSError.
"""


class BuildError(Exception):
    """The base of the others; its text is one line for the user."""


class WheelError(BuildError):
    """The demo model's package cannot be had, or is not the pinned one."""


class GgufError(BuildError):
    """A GGUF file is not a Llama model in a form that we read."""
