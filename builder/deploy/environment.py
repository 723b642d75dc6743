"""The environment of an endpoint's workers: what is given, what is secret, what has no effect."""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from builder.deploy.models import Template
from builder.errors import InvalidArgument
from handler.environ import load_settings, setting_variables

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET_NAME = re.compile(r"(TOKEN|KEYS?|SECRETS?|PASSWORD|PASSWD|CREDENTIALS?)$")
URL_WITH_PASSWORD = re.compile(r"://[^/\s@]*:[^/\s@]+@")
# The platform replaces it with a secret of the account when a worker starts.
SECRET_REFERENCE = re.compile(r"\{\{\s*RUNPOD_SECRET_\w+\s*\}\}")
SETTINGS = setting_variables()
MODEL_VARIABLES = (*SETTINGS["served_model_name"], *SETTINGS["model_name"])
PLATFORM_VARIABLES = {"RUNPOD_WEBHOOK_GET_JOB": "https://api.runpod.ai/"}  # a queue needs it
TENSOR_PARALLEL = ("TENSOR_PARALLEL_SIZE", "TP_SIZE")  # vLLM's name and SGLang's
PIPELINE_PARALLEL = ("PIPELINE_PARALLEL_SIZE", "PP_SIZE")
# With these a model uses more GPUs than tensor and pipeline parallelism take.
OTHER_PARALLEL = ("DATA_PARALLEL_SIZE", "DP_SIZE", "PREFILL_CONTEXT_PARALLEL_SIZE")
PARALLEL_FLAG = re.compile(r"parallel|-[tpd]p\b")
OTHER_PROGRAMS = (
    "RUNPOD_",
    "NVIDIA_",
    "CUDA_",
    "NCCL_",
    "PYTHON",
    "HF_",
    "VLLM_",
    "SGLANG_",
    "PIP_",
)
MIN_SIMILARITY = 0.85  # MAX_MODEL_LENGTH has 0.90 to MAX_MODEL_LEN


@dataclass(frozen=True)
class EnvArguments:
    """Variables that are given with a preset, --model or --env.

    Attributes:
        values: by name; an empty value removes the variable.
        secret: names whose values are never shown.
        replaces_all: whether what is not given is removed, except secrets.
    """

    values: Mapping[str, str]
    secret: frozenset[str]
    replaces_all: bool

    @property
    def is_empty(self) -> bool:
        return not self.values and not self.replaces_all

    def applied_to(self, current: Mapping[str, str]) -> dict[str, str]:
        """Return the environment that replaces the current one."""
        kept = {
            name: value
            for name, value in current.items()
            if not self.replaces_all or is_secret(name, value) or is_reference(value)
        }
        return {name: value for name, value in (kept | dict(self.values)).items() if value}


def parse_env_arguments(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    base: Mapping[str, str],
    replaces_all: bool = True,
) -> EnvArguments:
    """Parse NAME=VALUE, NAME (with this process's value) and NAME= (to remove it).

    Raises:
        InvalidArgument: an argument has another form, or shows a secret.
    """
    values, secret = dict(base), set[str]()
    for argument in arguments:
        name, has_value, value = argument.partition("=")
        if not VARIABLE.fullmatch(name):
            raise InvalidArgument(f"--env {argument!r} must be NAME=VALUE, NAME or NAME=.")
        if value and is_secret(name, value):
            raise InvalidArgument(
                f"--env {name}=… shows a secret to whoever lists processes: export {name} and "
                f"give --env {name}, or --env '{name}={{{{ RUNPOD_SECRET_name }}}}'."
            )
        if not has_value:
            value = environ.get(name, "").strip()
            if not value:
                raise InvalidArgument(f"--env {name}: export {name} first.")
            if name not in MODEL_VARIABLES:  # callers must know these
                secret.add(name)
        values[name] = value
    return EnvArguments(values, frozenset(secret), replaces_all)


@cache
def known_variables() -> frozenset[str]:
    """Return the worker's settings and the flags of both engines, as variables."""
    flags = json.loads((files("handler") / "engine" / "flag_names.json").read_bytes())
    lists = [*SETTINGS.values(), *(names for engine in flags.values() for names in engine.values())]
    return frozenset(name for names in lists for name in names)


def is_secret(name: str, value: str) -> bool:
    if is_reference(value):
        return False
    if name in SETTINGS["hf_token"] + SETTINGS["api_key"] or URL_WITH_PASSWORD.search(value):
        return True
    return name not in known_variables() and SECRET_NAME.search(name.upper()) is not None


def is_reference(value: str) -> bool:
    return SECRET_REFERENCE.fullmatch(value) is not None


def hidden_variables(env: Mapping[str, str], template: Template | None) -> frozenset[str]:
    """Return the variables that were given as secrets, now or earlier, or by somebody else.

    The template remembers what was given openly: a value that it does not have is hidden.
    """

    def is_open(name: str, value: str) -> bool:
        if is_secret(name, value) or is_reference(value):
            return is_reference(value)
        return template.env.get(name) == value if template else name in known_variables()

    return frozenset(name for name, value in env.items() if not is_open(name, value))


def check_environment(env: Mapping[str, str]) -> Iterator[str]:
    """Give a note for each variable that looks like a misspelled one.

    Raises:
        handler.errors.BadSetting: a worker would refuse the value when it starts. Flags of the
            engine are checked by the engine only.
    """
    load_settings(PLATFORM_VARIABLES | {name: v for name, v in env.items() if not is_reference(v)})
    for name in sorted(env.keys() - known_variables()):
        near = difflib.get_close_matches(name, known_variables(), n=1, cutoff=MIN_SIMILARITY)
        if near and not name.startswith(OTHER_PROGRAMS):
            yield f"{name} is not a setting and has no effect: did you mean {near[0]}?"


def check_gpu_count(env: Mapping[str, str], gpu_count: int) -> Iterator[str]:
    """Give a note if the model is spread over more or fewer GPUs than a worker has."""
    tensor, pipeline = _first(env, TENSOR_PARALLEL), _first(env, PIPELINE_PARALLEL)
    arguments = " ".join(env.get(name, "") for name in SETTINGS["engine_args"])
    are_numbers = all(re.fullmatch(r"[1-9]\d*", size) for _, size in tensor + pipeline)
    if PARALLEL_FLAG.search(arguments) or not are_numbers:
        return  # ENGINE_ARGS override the variables; `auto` uses all GPUs
    stages = math.prod(int(size) for _, size in pipeline)
    used = math.prod(int(size) for _, size in tensor) * stages
    if used == gpu_count or (used < gpu_count and _first(env, OTHER_PARALLEL)):
        return
    name = tensor[0][0] if tensor else TENSOR_PARALLEL[0]
    cause = " × ".join("=".join(each) for each in tensor + pipeline)
    yield (
        f"a worker has {gpu_count} {'GPU' if gpu_count == 1 else 'GPUs'}, and "
        f"{cause or f'without {name} the model'} uses {used}: give --gpu-count {used}"
        + ("" if gpu_count % stages else f", or --env {name}=auto for all GPUs")
    )


def check_model_folder(env: Mapping[str, str]) -> Iterator[str]:
    """Give a note if the model is a path, or a folder on this machine."""
    for name, model in _first(env, SETTINGS["model_name"]):
        if model.startswith(("/", ".", "~")) or Path(model).is_dir():
            yield (
                f"{name}={model} is a folder's path: the endpoint has no such folder unless its "
                "image or its volume does"
            )


def _first(env: Mapping[str, str], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the first of the names that has a value, with its value."""
    return [(name, text) for name in names if (text := env.get(name, "").strip())][:1]
