"""What can go wrong with a deployment.

DeployError         1
├── WrongOrder      2  an argument or a setting means nothing, or contradicts what is there
├── KeyRefused      3  RUNPOD_API_KEY is missing, not valid, or may not do this
├── NoCredit        4  the account has no credit
├── NotFound        5  no such endpoint, worker or volume
├── Refused         6  the API refuses the request, and says why
├── Unreachable     7  the API cannot be reached, fails, or stays busy
├── NoWorker        8  no worker became healthy in time
├── NoAnswer        9  the endpoint is up, and does not answer the test request
└── LeftAlone      10  nothing was deleted

`told` in command.py prints one as a line and ends with its code.
"""

from builder.errors import BuildError


class DeployError(BuildError):
    """The base of the others; its text is one sentence for the user."""


class WrongOrder(DeployError):
    """An argument or a setting means nothing, or contradicts what is there."""

    exit_code = 2


class KeyRefused(DeployError):
    """RUNPOD_API_KEY is missing, not valid, or may not do this."""

    exit_code = 3


class NoCredit(DeployError):
    """The account has no credit."""

    exit_code = 4


class NotFound(DeployError):
    """There is no such endpoint, worker or volume."""

    exit_code = 5


class Refused(DeployError):
    """The API refuses the request, and says why."""

    exit_code = 6


class Unreachable(DeployError):
    """The API cannot be reached, fails, or stays busy."""

    exit_code = 7


class NoWorker(DeployError):
    """No worker became healthy in time."""

    exit_code = 8


class NoAnswer(DeployError):
    """The endpoint is up, and does not answer the test request."""

    exit_code = 9


class LeftAlone(DeployError):
    """Nothing was deleted."""

    exit_code = 10
