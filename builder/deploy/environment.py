"""The environment of an endpoint's workers: from the preset, `--model` and `--env`, judged.

What a worker would refuse at its start is refused here, before it costs anything. Flags of the
engine are known by name only: their values are judged by the engine's own parser, in the worker.
Nor is it known what a secret of the account is, or which folders an image or a volume has.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.deploy.names import is_reference, is_secret, known, known_names
from builder.errors import InvalidArgument
from handler.engine import aliases
from handler.engine.aliases import EngineName
from handler.engine.flags import unused_variable_warnings
from handler.engine.parallelism import DATA, PIPELINE, TENSOR
from handler.engine.sglang import flags as sglang
from handler.engine.vllm import flags as vllm
from handler.environ import load, variables

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HTTP_PORT = "8000"
OVER_HTTP = {"SERVE_MODE": "http", "PORT": HTTP_PORT}
REMOVED: dict[EngineName, Mapping[str, str]] = {"vllm": vllm.REMOVED, "sglang": sglang.REMOVED}
MODEL_NAMES = frozenset(variables()["model_name"] + variables()["served_model_name"])
# The platform's, which `load` wants beside SERVE_MODE=queue.
OF_A_QUEUE = {"RUNPOD_WEBHOOK_GET_JOB": "https://api.runpod.ai/"}
# With these a model takes more GPUs than its tensors and its pipeline do.
COPIES = (*DATA, "PREFILL_CONTEXT_PARALLEL_SIZE")
SPREADS = re.compile(r"parallel|-[tpd]p\b")  # a flag in ENGINE_ARGS, which wins over variables


@dataclass(frozen=True)
class Environment:
    """What was said of a worker's environment.

    Attributes:
        values: the variables.
        secret: those of them whose values are not shown.
        dropped: names that are to be taken out.
        is_whole: whether it is all there is to be, and not a change of what is there.
    """

    values: Mapping[str, str]
    secret: frozenset[str]
    dropped: frozenset[str]
    is_whole: bool = True

    def beside(self, there: Mapping[str, str]) -> dict[str, str]:
        """Return all that the endpoint will have.

        Secrets that it has already stay, and so do references to secrets of the account.
        """
        left = {name: value for name, value in there.items() if name not in self.dropped}
        if self.is_whole:
            left = {
                n: value for n, value in left.items() if is_secret(n, value) or is_reference(value)
            }
        return left | dict(self.values)


def read(
    base: Mapping[str, str],
    given: Sequence[str],
    environ: Mapping[str, str],
    is_whole: bool = True,
) -> Environment:
    """Put variables together; later ones win.

    Args:
        base: the preset's, and what follows from other arguments.
        given: NAME=VALUE; NAME, whose value this process has; or NAME=, which takes it out.
        environ: of this process.
        is_whole: whether nothing else is to be left of what is there.

    Raises:
        InvalidArgument: an argument is none of those, or has a secret in it.
    """
    values, secret, dropped = dict(base), set[str](), set[str]()
    for argument in given:
        name, has_value, value = argument.partition("=")
        if not NAME.fullmatch(name):
            raise InvalidArgument(
                f"--env {name!r} is no variable's name: --env NAME=VALUE, or NAME."
            )
        if has_value and value and is_secret(name, value):
            raise InvalidArgument(
                f"--env {name}=… shows a secret to whoever lists processes: export {name} and "
                f"give --env {name}, or --env '{name}={{{{ RUNPOD_SECRET_name }}}}'."
            )
        if not has_value:
            value = environ.get(name, "").strip()
            if name not in MODEL_NAMES:  # which callers have to know
                secret.add(name)
            if not value:
                raise InvalidArgument(
                    f"--env {name} takes its value from the environment: export it."
                )
        values[name] = value
        if value:
            dropped.discard(name)
        else:
            del values[name]
            dropped.add(name)
    shown = frozenset(secret & values.keys())
    return Environment(values, shown, frozenset(dropped), is_whole)


def judged(values: Mapping[str, str], engine: EngineName | None) -> list[str]:
    """Return a line for each variable that has no effect, as the start would write it.

    Args:
        values: all variables of a worker.
        engine: of the image, None if it may be either.

    Raises:
        handler.errors.InvalidSetting: the start would refuse a variable, in the same words.
    """
    load(OF_A_QUEUE | {n: value for n, value in values.items() if not is_reference(value)})
    if engine is None:
        return unused_variable_warnings(values, known_names(), {})
    names, removed = known(engine), REMOVED[engine]
    aliases.refuse_settings_of_other_engine(engine, values, names | removed.keys())
    return unused_variable_warnings(values, names, removed)


def doubted_gpus(values: Mapping[str, str], gpus: int) -> list[str]:
    """Return a line if the model is spread over more or fewer GPUs than a worker has.

    Args:
        values: all variables of a worker.
        gpus: that it has.
    """
    tensor, pipeline = _said(values, TENSOR), _said(values, PIPELINE)
    sizes = [text for _, text in tensor + pipeline]
    arguments = " ".join(values.get(name, "") for name in variables()["engine_args"])
    if SPREADS.search(arguments) or not all(size.isdecimal() and int(size) for size in sizes):
        return []  # such as auto
    taken = math.prod(map(int, sizes))
    if taken == gpus or (taken < gpus and _said(values, COPIES)):
        return []
    name = tensor[0][0] if tensor else TENSOR[0]
    cause = " × ".join("=".join(each) for each in tensor + pipeline)
    advice = f"give --gpu-count {taken}"
    if gpus % int(pipeline[0][1] if pipeline else 1) == 0:
        advice += f", or --env {name}=auto for all that it has"
    return [
        f"a worker has {gpus} {'GPU' if gpus == 1 else 'GPUs'}, and "
        f"{cause or f'without {name} the model'} takes {taken}: {advice}"
    ]


def doubted_folder(values: Mapping[str, str]) -> list[str]:
    """Return a line if the model is a path, or the name of a folder that is here."""
    return [
        f"{name}={model} is a folder's path: the endpoint has no such folder unless its image or "
        "its volume does"
        for name, model in _said(values, variables()["model_name"])
        if model.startswith(("/", ".", "~")) or Path(model).is_dir()
    ]


def _said(values: Mapping[str, str], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the first of the names that has a value, with it; nothing if none has."""
    return [(name, text) for name in names if (text := values.get(name, "").strip())][:1]
