"""Write the Runpod Hub's listings from the settings and the presets.

    python -m builder.hub_listing

makes `.runpod/hub.json` and `.runpod/tests.json` for the vLLM image, and both in `.runpod/sglang/`
for the SGLang image: the Hub builds one image for each listing.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from builder.presets import PRESETS
from handler.settings.environ import setting_variables
from handler.settings.fields import Settings

FOLDERS = {"vllm": Path(".runpod"), "sglang": Path(".runpod/sglang")}
ENGINE_TITLES = {"vllm": "vLLM", "sglang": "SGLang"}
DISK_GB = 150  # the image, and a model of 70 billion parameters in 8 bits
# The engines' images are built with CUDA 13, which older drivers cannot run.
CUDA_VERSIONS = ["13.2", "13.1", "13.0"]
TEST_GPU = "NVIDIA GeForce RTX 4090"
TEST_MODEL = "Qwen/Qwen2.5-0.5B-Instruct-AWQ"
TEST_TIMEOUT_MS = 600_000  # includes the first start

# Settings of the platform, of the image, and of HTTP: a listing creates a queue endpoint.
EXCLUDED_SETTINGS = frozenset(
    "job_url endpoint_id worker_id engine base_path cache_root serve_mode port port_health "
    "health_check_path http_host api_key allow_unauthenticated max_queue cors_origins playground "
    "metrics_port".split()
)
BASIC_INPUTS = ("MODEL_NAME", "HF_TOKEN", "MAX_MODEL_LEN")  # the others are under "advanced"

# The engine flags that most people set, with their type in the form. Any other flag can be set as
# a variable too. The form sends an empty number as 0, which counts as not set, and an untouched
# switch as false: a flag that is on by default, or decided by the engine, is a list of options.
ENGINE_FLAGS: dict[str, tuple[str, str]] = {
    "MAX_MODEL_LEN": (
        "string",
        "Longest context in tokens, such as 8192 or 32k; vLLM's auto fits the memory",
    ),
    "GPU_MEMORY_UTILIZATION": ("number", "Share of the GPU's memory for weights and KV cache"),
    "MAX_NUM_SEQS": ("number", "Sequences in one batch"),
    "MAX_NUM_BATCHED_TOKENS": ("number", "Tokens in one step, which limits a prefill chunk"),
    "TENSOR_PARALLEL_SIZE": ("string", "GPUs that share the model; auto uses all visible ones"),
    "KV_CACHE_DTYPE": ("string", "auto, or fp8 for twice the context in the same memory"),
    "ENABLE_PREFIX_CACHING": ("choice", "Reuse the KV cache of prefixes that requests share"),
    "ENABLE_AUTO_TOOL_CHOICE": ("boolean", "Let the model decide whether to call tools"),
    "TOOL_CALL_PARSER": ("string", "How the model writes tool calls, such as hermes"),
    "REASONING_PARSER": ("string", "How the model writes its reasoning, such as qwen3"),
    "TRUST_REMOTE_CODE": ("boolean", "Run Python code that comes with the model"),
}
SWITCH_WORDS = {"trueValue": "true", "falseValue": "false"}  # what the variable is
INPUT_TYPES: dict[Any, str] = {bool: "boolean", int: "number", float: "number"}


def hub_json(engine: str) -> dict[str, Any]:
    """Return the content of hub.json for an engine's image."""
    presets = [preset for preset in PRESETS if preset.engine == engine]
    pools = dict.fromkeys(pool for preset in presets for pool in preset.gpu_pools)
    flags = [
        _input(key, _flag_content(input_type, description))
        for key, (input_type, description) in ENGINE_FLAGS.items()
    ]
    settings = [
        _setting_input(names[0], field, Settings.model_fields[field])
        for field, names in setting_variables().items()
        if field not in EXCLUDED_SETTINGS
    ]
    settings.sort(key=lambda entry: entry["input"].get("advanced", False))
    return {
        "title": f"LLM worker ({ENGINE_TITLES[engine]})",
        "description": "One quantized LLM (AWQ, FP8) behind an OpenAI-compatible endpoint: "
        f"{ENGINE_TITLES[engine]} in the worker's own process, streaming, continuous batching",
        "type": "serverless",
        "category": "language",
        "config": {
            "runsOn": "GPU",
            "endpointType": "QB",
            "containerDiskInGb": DISK_GB,
            "gpuCount": 1,
            "gpuIds": ",".join(pools),
            "allowedCudaVersions": CUDA_VERSIONS,
            # A preset cannot select GPUs in the form, so its name says which ones it needs.
            "presets": [
                {"name": f"{preset.name} ({preset.gpu})", "defaults": preset.variables()}
                for preset in presets
            ],
            "env": [*settings, *flags],
        },
    }


def release_tests_json() -> dict[str, Any]:
    """Return the content of tests.json: jobs that the Hub runs before it lists a release."""
    chat = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    limits = {"max_tokens": 20, "temperature": 0}
    jobs: dict[str, dict[str, Any]] = {
        "chat": chat | limits,
        "chat_stream": chat | limits | {"stream": True},
        "prompt": {"prompt": "One, two, three,"} | limits,
        "openai_chat": {
            "openai_route": "/v1/chat/completions",
            "openai_input": chat | limits | {"stream": True},
        },
        "models": {"openai_route": "/v1/models", "openai_input": {}},
    }
    environment = {"MODEL_NAME": TEST_MODEL, "MAX_MODEL_LEN": "4096"}
    return {
        "tests": [
            {"name": name, "input": job, "timeout": TEST_TIMEOUT_MS} for name, job in jobs.items()
        ],
        "config": {
            "gpuTypeId": TEST_GPU,
            "gpuCount": 1,
            "env": [{"key": key, "value": value} for key, value in environment.items()],
            "allowedCudaVersions": CUDA_VERSIONS,
        },
    }


def _setting_input(key: str, field: str, info: FieldInfo) -> dict[str, Any]:
    types = _types_and_choices(info.annotation)
    input_type = INPUT_TYPES.get(types[0], "string")
    content: dict[str, Any] = {
        "type": "huggingface" if field == "model_name" else input_type,
        "description": info.description,
    }
    content |= SWITCH_WORDS if input_type == "boolean" else {}
    choices = [str(choice) for choice in types if not isinstance(choice, type)]
    if len(choices) == len(types):
        content["options"] = [{"label": choice, "value": choice} for choice in choices]
    if info.default is not None and info.default != "":
        content["default"] = info.default
    if field == "model_name":
        content["required"] = True
    return _input(key, content)


def _flag_content(input_type: str, description: str) -> dict[str, Any]:
    if input_type != "choice":
        default = {"default": False, **SWITCH_WORDS} if input_type == "boolean" else {}
        return {"type": input_type, "description": description, **default}
    options = [{"label": word, "value": word} for word in ("true", "false")]
    return {"type": "string", "description": description, "options": options, "default": ""}


def _input(key: str, content: dict[str, Any]) -> dict[str, Any]:
    advanced = {} if key in BASIC_INPUTS else {"advanced": True}
    return {"key": key, "input": {"name": _label(key), **content, **advanced}}


def _types_and_choices(annotation: Any) -> list[Any]:
    """Flatten a field's annotation into its types and the values of its Literals."""
    arguments = get_args(annotation)
    if not arguments:
        return [] if annotation is type(None) else [annotation]
    if get_origin(annotation) is Literal:
        return list(arguments)
    if get_origin(annotation) is Annotated:
        return _types_and_choices(arguments[0])
    return [each for argument in arguments for each in _types_and_choices(argument)]


def _label(key: str) -> str:
    spelled = {"HF": "Hugging Face", "KV": "KV", "GPU": "GPU", "LEN": "length"}
    words = [spelled.get(word, word.lower()) for word in key.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def main() -> int:
    """Write both listings."""
    argparse.ArgumentParser(
        prog="python -m builder.hub_listing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    for engine, folder in FOLDERS.items():
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("hub.json", hub_json(engine)), ("tests.json", release_tests_json())):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
