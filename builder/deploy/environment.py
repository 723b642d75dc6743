"""The environment of an endpoint's workers: from the preset, `--model` and `--env`, judged.

What a worker would refuse at its start is refused here, before it costs anything. Flags of the
engine are known by name only: their values are judged by the engine's own parser, in the worker.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builder.deploy.errors import WrongOrder
from builder.deploy.names import is_secret, known
from handler.engine import shared
from handler.engine.flags import unused
from handler.engine.sglang import names as sglang
from handler.engine.shared import EngineName
from handler.engine.vllm import names as vllm
from handler.environ import load

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HTTP_PORT = "8000"
OVER_HTTP = {"SERVE_MODE": "http", "PORT": HTTP_PORT}
REMOVED: dict[EngineName, Mapping[str, str]] = {"vllm": vllm.REMOVED, "sglang": sglang.REMOVED}
# The platform's, which `load` wants beside SERVE_MODE=queue.
OF_A_QUEUE = {"RUNPOD_WEBHOOK_GET_JOB": "https://api.runpod.ai/"}


@dataclass(frozen=True)
class Environment:
    """What was said of a worker's environment.

    Attributes:
        values: the variables.
        secret: those of them whose values are not shown.
        dropped: names that are to be taken out.
    """

    values: Mapping[str, str]
    secret: frozenset[str]
    dropped: frozenset[str]

    def beside(self, there: Mapping[str, str]) -> dict[str, str]:
        """Return all that the endpoint will have: secrets that it has already stay."""
        kept = {
            name: value
            for name, value in there.items()
            if is_secret(name, value) and name not in self.dropped
        }
        return kept | dict(self.values)


def read(base: Mapping[str, str], given: Sequence[str], environ: Mapping[str, str]) -> Environment:
    """Put variables together; later ones win.

    Args:
        base: the preset's, and what follows from other arguments.
        given: NAME=VALUE; NAME, whose value this process has; or NAME=, which takes it out.
        environ: of this process.

    Raises:
        WrongOrder: an argument is none of those, or has a secret in it.
    """
    values, secret, dropped = dict(base), set[str](), set[str]()
    for argument in given:
        name, has_value, value = argument.partition("=")
        if not NAME.fullmatch(name):
            raise WrongOrder(f"--env {name!r} is no variable's name: --env NAME=VALUE, or NAME.")
        if has_value and value and is_secret(name, value):
            raise WrongOrder(
                f"--env {name}=… shows a secret to whoever lists processes: export {name} and "
                f"give --env {name}, or --env '{name}={{{{ RUNPOD_SECRET_name }}}}'."
            )
        if not has_value:
            value = environ.get(name, "").strip()
            secret.add(name)
            if not value:
                raise WrongOrder(f"--env {name} takes its value from the environment: export it.")
        values[name] = value
        if value:
            dropped.discard(name)
        else:
            del values[name]
            dropped.add(name)
    return Environment(values, frozenset(secret & values.keys()), frozenset(dropped))


def judged(values: Mapping[str, str], engine: EngineName) -> list[str]:
    """Return a line for each variable that has no effect, as the start would write it.

    Args:
        values: all variables of a worker.
        engine: of the image.

    Raises:
        handler.errors.BadSetting: the start would refuse a variable, in the same words.
    """
    load(OF_A_QUEUE | dict(values))
    names, removed = known(engine), REMOVED[engine]
    shared.refuse_foreign(engine, values, names | removed.keys())
    return unused(values, names, removed)
