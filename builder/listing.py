"""Write the Runpod Hub's form and tests from the settings and the presets.

    python -m builder.listing

makes `.runpod/hub.json` and `.runpod/tests.json` for the vLLM image, and the same two in
`.runpod/sglang/` for the SGLang image, which is a listing of its own: the Hub builds one image
for a listing.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from builder.presets import PRESETS, Preset
from handler.environ import variables
from handler.settings import Settings

FOLDERS = {"vllm": Path(".runpod"), "sglang": Path(".runpod/sglang")}
ENGINE_NAMES = {"vllm": "vLLM", "sglang": "SGLang"}
DISK_GB = 150  # the image, and a model of 70 billion parameters in 8 bits
# The engines' images are built with CUDA 13, which older drivers cannot run.
CUDA_VERSIONS = ["13.2", "13.1", "13.0"]
TEST_GPU = "NVIDIA GeForce RTX 4090"
TEST_MODEL = "Qwen/Qwen2.5-0.5B-Instruct-AWQ"
TEST_TIMEOUT_MS = 600_000  # with the first start

# The platform sets it, the image has it from its build, or it is HTTP's: the form makes a queue.
NOT_IN_THE_FORM = {
    *("job_url", "endpoint_id", "worker_id", "engine", "base_path", "cache_root"),
    *("serve_mode", "port", "port_health", "http_host", "api_key", "allow_unauthenticated"),
    *("max_queue", "cors_origins", "playground", "metrics_port"),
}
FIRST = ("model_name", "hf_token")  # shown without asking for more

FIRST_FLAGS = ("MAX_MODEL_LEN",)

# Flags of the engines that most people set. Any other can be set as a variable too.
ENGINE_FLAGS: dict[str, tuple[str, str]] = {
    "MAX_MODEL_LEN": ("string", "Longest context in tokens, such as 8192 or 32k"),
    "GPU_MEMORY_UTILIZATION": ("number", "Share of the card's memory for weights and KV cache"),
    "MAX_NUM_SEQS": ("number", "Sequences in one batch"),
    "MAX_NUM_BATCHED_TOKENS": ("number", "Tokens in one step, which bounds a prefill's piece"),
    "TENSOR_PARALLEL_SIZE": ("string", "Cards that share the model; auto takes all that it sees"),
    "KV_CACHE_DTYPE": ("string", "auto, or fp8 for twice the context in the same memory"),
    "ENABLE_PREFIX_CACHING": ("boolean", "Keep the KV cache of prefixes that requests share"),
    "ENABLE_AUTO_TOOL_CHOICE": ("boolean", "Let the model decide to call tools"),
    "TOOL_CALL_PARSER": ("string", "How the model writes tool calls, such as hermes"),
    "REASONING_PARSER": ("string", "How the model writes its reasoning, such as qwen3"),
    "TRUST_REMOTE_CODE": ("boolean", "Run Python code that comes with the model"),
}
KINDS: dict[type, str] = {bool: "boolean", int: "number", float: "number"}


def hub(engine: str) -> dict[str, Any]:
    """Return the content of hub.json for an engine's image."""
    presets = [preset for preset in PRESETS if preset.engine == engine]
    pools = list(dict.fromkeys(pool for preset in presets for pool in preset.gpu_pools))
    return {
        "title": f"LLM worker ({ENGINE_NAMES[engine]})",
        "description": "One quantized LLM (AWQ, FP8) behind an OpenAI-compatible endpoint: "
        f"{ENGINE_NAMES[engine]} in the worker's own process, streaming, continuous batching",
        "type": "serverless",
        "category": "language",
        "config": {
            "runsOn": "GPU",
            "endpointType": "QB",
            "containerDiskInGb": DISK_GB,
            "gpuCount": 1,
            "gpuIds": ",".join(pools),
            "allowedCudaVersions": CUDA_VERSIONS,
            "presets": [_preset(preset) for preset in presets],
            "env": [*_worker_inputs(), *_engine_inputs()],
        },
    }


def tests() -> dict[str, Any]:
    """Return the content of tests.json: jobs that the Hub sends before it lists a release."""
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


def _preset(preset: Preset) -> dict[str, Any]:
    """The form cannot choose cards: the preset's name says which."""
    return {"name": f"{preset.name} ({preset.gpu})", "defaults": preset.variables()}


def _worker_inputs() -> list[dict[str, Any]]:
    inputs = []
    for field, names in variables().items():
        if field not in NOT_IN_THE_FORM:
            info = Settings.model_fields[field]
            inputs.append(_input(names[0], field, info))
    return sorted(inputs, key=lambda made: made["input"].get("advanced", False))


def _input(key: str, field: str, info: FieldInfo) -> dict[str, Any]:
    kinds = _kinds(info.annotation)
    made: dict[str, Any] = {
        "name": _title(key),
        "type": "huggingface" if field == "model_name" else KINDS.get(kinds[0], "string"),
        "description": info.description,
    }
    options = [str(kind) for kind in kinds if not isinstance(kind, type)]
    if options and len(options) == len(kinds):
        made["options"] = [{"label": option, "value": option} for option in options]
    if info.default is not None and info.default != "":
        made["default"] = info.default
    if field == "model_name":
        made["required"] = True
    if field not in FIRST:
        made["advanced"] = True
    return {"key": key, "input": made}


def _kinds(annotation: Any) -> list[Any]:
    """Take a field's type apart: types, and the values of a Literal."""
    if annotation is type(None):
        return []
    arguments = get_args(annotation)
    if not arguments:
        return [annotation]
    if get_origin(annotation) is not None and str(get_origin(annotation)) == "typing.Literal":
        return list(arguments)
    if str(get_origin(annotation)) == "typing.Annotated":
        return _kinds(arguments[0])
    return [kind for argument in arguments for kind in _kinds(argument)]


def _engine_inputs() -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "input": {
                "name": _title(key),
                "type": kind,
                "description": description,
                **({} if key in FIRST_FLAGS else {"advanced": True}),
            },
        }
        for key, (kind, description) in ENGINE_FLAGS.items()
    ]


def _title(key: str) -> str:
    shown = {"HF": "Hugging Face", "KV": "KV", "GPU": "GPU", "LEN": "length"}
    words = [shown.get(word, word.lower()) for word in key.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def main() -> int:
    """Write both listings."""
    argparse.ArgumentParser(
        prog="python -m builder.listing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    for engine, folder in FOLDERS.items():
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("hub.json", hub(engine)), ("tests.json", tests())):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
