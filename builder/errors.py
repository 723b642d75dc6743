"""Errors of the builder's commands, with their exit codes.

    BuilderError                1
    ├── WheelError              1  the demo model's package is not available, or not the pinned one
    ├── GgufError               1  a GGUF file is not a Llama model of a supported form
    ├── InvalidArgument         2  an argument, or the file or folder that it names, is invalid
    ├── CheckpointRefused       2  the checkpoint is not the requested one, or not supported
    ├── DamagedFile             4  a file does not match the hub's checksum
    ├── QuantizationFailed      4  llm-compressor is missing, or fails on this model
    ├── WorkerFailed           11  the worker that `warm` started failed
    ├── NothingCompiled        12  that worker left nothing to archive
    └── DeployError             1
        ├── ApiKeyRefused       3  RUNPOD_API_KEY is missing, invalid, or lacks a permission
        ├── NoCredit            4  the account has no credit
        ├── NotFound            5  no such endpoint, worker or volume
        ├── RequestRefused      6  the API refuses the request
        ├── ApiUnavailable      7  the API cannot be reached, fails, or stays busy
        ├── NoHealthyWorker     8  no worker became healthy in time
        ├── SmokeTestFailed     9  the endpoint is up and does not answer the test request
        └── NotDeleted         10  the user did not confirm, or jobs are running

`builder.cli.run_command` prints an error as one line and returns its exit code. A hub's error is a
`handler.errors.ModelUnavailable` (3); a full disk or a missing
permission is an OSError.

It imports nothing, because the image's build copies this module alone.
"""


class BuilderError(Exception):
    """Base class; the text is one line for the user."""

    exit_code = 1


class WheelError(BuilderError):
    """The demo model's package is not available, or is not the pinned one."""


class GgufError(BuilderError):
    """A GGUF file is not a Llama model of a supported form."""


class InvalidArgument(BuilderError):
    exit_code = 2


class CheckpointRefused(BuilderError):
    exit_code = 2


class DamagedFile(BuilderError):
    exit_code = 4


class QuantizationFailed(BuilderError):
    exit_code = 4


class WorkerFailed(BuilderError):
    exit_code = 11


class NothingCompiled(BuilderError):
    exit_code = 12


class DeployError(BuilderError):
    """Base class for `deploy`, `status`, `logs` and `delete`."""


class ApiKeyRefused(DeployError):
    exit_code = 3


class NoCredit(DeployError):
    exit_code = 4


class NotFound(DeployError):
    exit_code = 5


class RequestRefused(DeployError):
    exit_code = 6


class ApiUnavailable(DeployError):
    exit_code = 7


class NoHealthyWorker(DeployError):
    exit_code = 8


class SmokeTestFailed(DeployError):
    exit_code = 9


class NotDeleted(DeployError):
    exit_code = 10
