"""What can go wrong while a model is fetched or made.

BuildError        1
├── WheelError    1  the demo model's package cannot be had, or is not the pinned one
├── GgufError     1  a GGUF file is not a Llama model in a form that we read
├── Refused       2  the checkpoint is not what was asked for, or not what may be served
├── Damaged       4  a file is not what the hub says it is
└── NotQuantized  4  llm-compressor is not there, or does not get through this model

`main` of each command prints one as a line and ends with its code. What the hub refuses is
`handler.errors.ModelUnavailable`, 3; a full disk or a missing right is an OSError, 4.
"""


class BuildError(Exception):
    """The base of the others; its text is one line for the user."""

    exit_code = 1


class WheelError(BuildError):
    """The demo model's package cannot be had, or is not the pinned one."""


class GgufError(BuildError):
    """A GGUF file is not a Llama model in a form that we read."""


class Refused(BuildError):
    """The checkpoint is not what was asked for, or not one that may be served."""

    exit_code = 2


class Damaged(BuildError):
    """A file is not what the hub says it is, also when it is fetched again."""

    exit_code = 4


class NotQuantized(BuildError):
    """llm-compressor is not there, or does not get through this model."""

    exit_code = 4
