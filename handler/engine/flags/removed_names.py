"""Variables and flags that have no effect: from other workers, from older engines, or misspelt.

Each is reported with what replaces it. The names are those of worker-vllm since 1.0 and worker-
sglang, and docs/moving.md lists them. Those that still work are in
`handler/settings/old_names.py`.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence

from handler.engine.flags.aliases import OTHER_ENGINE, SERVER_ONLY, TITLES, EngineName
from handler.errors import InvalidSetting
from handler.settings.old_names import OLD_NAMES
from handler.settings.types import FALSE_WORDS
from handler.settings.variables import clean_value, is_no_value, is_zero

# MAX_MODEL_LENGTH is 0.90 like MAX_MODEL_LEN, TENSOR_PARALLEL 0.86 like TENSOR_PARALLEL_SIZE.
MIN_SIMILARITY = 0.85
PREFIXES_OF_OTHERS = tuple("RUNPOD_ NVIDIA_ CUDA_ NCCL_ PYTHON HF_ VLLM_ SGLANG_ PIP_".split())

_PACED = "the worker paces streams; use MAX_POSTS_PER_SECOND."
_NO_SERVER = "the engine's own HTTP server does not run here."
_TLS = "the platform's gateway or your own proxy terminates TLS."
_CORS = "CORS_ORIGINS is the only setting of cross-origin requests."
_NO_FILES = "files are not stored."
_NO_PROMPT_ADAPTER = "engines have no prompt adapters any more."
_TENSORIZER = "use LOAD_FORMAT=tensorizer with MODEL_LOADER_EXTRA_CONFIG."
_IMAGE = "the engine's image has one version of transformers; build with another image."

BOTH_ENGINES = {
    "ADDITIONAL_PORTS": "the worker has no inner server.",
    "ALLOWED_HEADERS": _CORS,
    "ALLOWED_METHODS": _CORS,
    "ALLOWED_ORIGINS": "use CORS_ORIGINS.",
    "ALLOW_CREDENTIALS": _CORS,
    "API_SERVER_COUNT": "the engine's front end runs in the worker's process.",
    "BATCH_SIZE_GROWTH_FACTOR": _PACED,
    "DEFAULT_BATCH_SIZE": _PACED,
    "DEFAULT_BATCH_SIZE_GROWTH_FACTOR": _PACED,
    "DEFAULT_MIN_BATCH_SIZE": _PACED,
    "DISABLE_FASTAPI_DOCS": _NO_SERVER,
    "DISABLE_FRONTEND_MULTIPROCESSING": "the engine's front end runs in the worker's process.",
    "DISABLE_UVICORN_ACCESS_LOG": "use LOG_LEVEL; each request is a line at INFO.",
    "ENABLE_PROMPT_ADAPTER": _NO_PROMPT_ADAPTER,
    "ENABLE_REASONING": "REASONING_PARSER alone is enough.",
    "ENABLE_REQUEST_ID_HEADERS": "each answer over HTTP has an x-request-id.",
    "ENABLE_SSL_REFRESH": _TLS,
    "FILE_STORAGE_PATH": _NO_FILES,
    "FILE_STORAGE_PTH": _NO_FILES,
    "H11_MAX_HEADER_COUNT": _NO_SERVER,
    "H11_MAX_INCOMPLETE_EVENT_SIZE": _NO_SERVER,
    "HF_DATASETS_CACHE": "no data sets are loaded.",
    "HF_HUB_ENABLE_HF_TRANSFER": "use HF_XET_HIGH_PERFORMANCE=1.",
    "HOST": "use HTTP_HOST.",
    "LOG_CONFIG_FILE": "use LOG_LEVEL and LOG_FORMAT.",
    "LOG_LEVEL_HTTP": "use LOG_LEVEL.",
    "MAX_PROMPT_ADAPTERS": _NO_PROMPT_ADAPTER,
    "MAX_PROMPT_ADAPTER_TOKEN": _NO_PROMPT_ADAPTER,
    "MIDDLEWARE": _NO_SERVER,
    "MIN_BATCH_SIZE": _PACED,
    "MODEL": "use MODEL_NAME.",
    "QLORA_ADAPTER_NAME_OR_PATH": "use LORA_MODULES.",
    "RAW_OPENAI_OUTPUT": "the OpenAI route always streams raw events.",
    "REVISION": "use MODEL_REVISION.",
    "ROOT_PATH": _NO_SERVER,
    "SSL_CA_CERTS": _TLS,
    "SSL_CERTFILE": _TLS,
    "SSL_CERT_REQS": _TLS,
    "SSL_KEYFILE": _TLS,
    "STORAGE_PATH": _NO_FILES,
    "TRANSFORMERS_VERSION": _IMAGE,
    "UDS": _NO_SERVER,
    "UVICORN_LOG_LEVEL": "use LOG_LEVEL.",
    "VLLM_API_KEY": "use API_KEY for HTTP; the platform checks the keys of a queue endpoint.",
    "VLLM_BASE_URL": "the worker has no inner server.",
    "VLLM_PORT": "the worker has no inner server.",
    "VLLM_STARTUP_TIMEOUT": "the platform's RUNPOD_INIT_TIMEOUT bounds the start.",
}

_NO_LOG = "requests are not logged unless ENABLE_LOG_REQUESTS=true."
_GRAPHS = "CUDA graphs cover every context length; ENFORCE_EAGER=true turns them off."
_NO_POOL = "the tokenizer needs no pool any more."
_RECOMPUTED = "the engine always recomputes preempted requests."
_REJECTION = "drafts are verified by rejection; SPECULATIVE_CONFIG has rejection_sample_method."
_NO_METHOD = "it needs a SPECULATIVE_METHOD, and SPECULATIVE_CONFIG overrides it."
_PREFILLS = "the scheduler has no such limit any more; use LONG_PREFILL_TOKEN_THRESHOLD."

VLLM = {
    "CALCULATE_KV_SCALES": "scales are read from the checkpoint.",
    "DEVICE": "the engine finds the device itself.",
    "DISABLE_LOGGING_REQUEST": _NO_LOG,
    "DISABLE_LOGPROBS_DURING_SPEC_DECODING": "requests with logprobs always get them.",
    "DISABLE_LOG_REQUESTS": _NO_LOG,
    "ENABLE_LORA_BIAS": "the engine serves no adapters with a bias any more.",
    "GUIDED_DECODING_DISABLE_FALLBACK": "the engine does not fall back from a backend that is "
    "named in STRUCTURED_OUTPUTS_CONFIG.",
    "LOGITS_PROCESSOR_PATTERN": "requests cannot name one any more; use LOGITS_PROCESSORS.",
    "LONG_LORA_SCALING_FACTORS": "the engine has no long LoRA any more.",
    "LORA_EXTRA_VOCAB_SIZE": "adapters cannot add tokens any more.",
    "MAX_CONTEXT_LEN_TO_CAPTURE": _GRAPHS,
    "MAX_LONG_PARTIAL_PREFILLS": _PREFILLS,
    "MAX_NUM_PARTIAL_PREFILLS": _PREFILLS,
    "MAX_SEQ_LEN_TO_CAPTURE": _GRAPHS,
    "NGRAM_PROMPT_LOOKUP_MAX": _NO_METHOD,
    "NGRAM_PROMPT_LOOKUP_MIN": _NO_METHOD,
    "NUM_LOOKAHEAD_SLOTS": "the engine sets them from SPECULATIVE_CONFIG.",
    "NUM_SCHEDULER_STEPS": "use ASYNC_SCHEDULING.",
    "OVERRIDE_ATTENTION_DTYPE": "the engine chooses it with ATTENTION_BACKEND.",
    "PREEMPTION_CHECK_PERIOD": _RECOMPUTED,
    "PREEMPTION_CPU_CAPACITY": _RECOMPUTED,
    "PREEMPTION_MODE": _RECOMPUTED,
    "QUANTIZATION_PARAM_PATH": "scales are read from the checkpoint.",
    "ROPE_SCALING": "use HF_OVERRIDES with rope_parameters.",
    "ROPE_THETA": "use HF_OVERRIDES with rope_parameters.",
    "SCHEDULER_DELAY_FACTOR": "the scheduler has no delay any more.",
    "SPECULATIVE_DISABLE_BY_BATCH_SIZE": "use SPECULATIVE_CONFIG with "
    "num_speculative_tokens_per_batch_size.",
    "SPECULATIVE_DRAFT_TENSOR_PARALLEL_SIZE": _NO_METHOD,
    "SPECULATIVE_ENFORCE_EAGER": _NO_METHOD,
    "SPECULATIVE_MAX_MODEL_LEN": _NO_METHOD,
    "SPECULATIVE_QUANTIZATION": _NO_METHOD,
    "SPEC_DECODING_ACCEPTANCE_METHOD": _REJECTION,
    "SWAP_SPACE": "the engine recomputes preempted requests; use KV_OFFLOADING_SIZE to offload.",
    "TENSORIZE": _TENSORIZER,
    "TENSORIZER_NUM_GPUS": _TENSORIZER,
    "TENSORIZER_URI": _TENSORIZER,
    "TOKENIZER_POOL_EXTRA_CONFIG": _NO_POOL,
    "TOKENIZER_POOL_SIZE": _NO_POOL,
    "TOKENIZER_POOL_TYPE": _NO_POOL,
    "TYPICAL_ACCEPTANCE_SAMPLER_POSTERIOR_ALPHA": _REJECTION,
    "TYPICAL_ACCEPTANCE_SAMPLER_POSTERIOR_THRESHOLD": _REJECTION,
    "USE_V2_BLOCK_MANAGER": "there is only one block manager.",
}

_NO_SGLANG_LOG = "requests are not logged unless LOG_REQUESTS=true."
_NGRAM = "SGLang matches n-grams of any length; use SPECULATIVE_NGRAM_MAX_TRIE_DEPTH to bound them."

SGLANG = {
    "DISABLE_LOGGING_REQUEST": _NO_SGLANG_LOG,
    "DISABLE_LOG_REQUESTS": _NO_SGLANG_LOG,
    "DISABLE_REGEX_JUMP_FORWARD": "the grammar backend decides it; use GRAMMAR_BACKEND.",
    "EFFICIENT_WEIGHT_LOAD": "weights are loaded file by file.",
    "ENABLE_EAGLE": "use SPECULATIVE_METHOD=eagle.",
    "ENABLE_EP_MOE": "use EP_SIZE.",
    "ENABLE_MLA": "the engine uses it for each model that has it.",
    "MAX_NUM_REQS": "use MAX_RUNNING_REQUESTS.",
    "NGRAM_PROMPT_LOOKUP_MAX": _NGRAM,
    "NGRAM_PROMPT_LOOKUP_MIN": _NGRAM,
    "OPENAI_RESPONSE_ROLE": "the role is assistant.",
    "ROPE_SCALING": "use JSON_MODEL_OVERRIDE_ARGS with rope_parameters.",
    "ROPE_THETA": "use JSON_MODEL_OVERRIDE_ARGS with rope_parameters.",
    "SWAP_SPACE": "the engine recomputes preempted requests; use ENABLE_HIERARCHICAL_CACHE to "
    "offload.",
    "VLLM_ATTENTION_BACKEND": "use ATTENTION_BACKEND with one of SGLang's names.",
    "VLLM_USE_DEEP_GEMM": "only vLLM reads it.",
    "WORKER_USE_RAY": "SGLang does not use Ray here.",
}

REMOVED: dict[EngineName, dict[str, str]] = {"vllm": VLLM, "sglang": SGLANG}

# Switches that are reported also when they are off. For others, off is a form's default.
REPORTED_WHEN_OFF = frozenset({"RAW_OPENAI_OUTPUT"})


def removed_names(engine: EngineName) -> dict[str, str]:
    """Return the names that have no effect with an engine, each with advice."""
    other = OTHER_ENGINE[engine]
    translated = {name for name, old in OLD_NAMES.items() if old.rule(other)}
    own = {name for name, old in OLD_NAMES.items() if old.rule(engine)}
    prefix = f"{engine.upper()}_"  # a variable that the engine itself reads
    of_other = {n for n in {*REMOVED[other], *translated} - own if not n.startswith(prefix)}
    advice = f"it was a setting of {TITLES[other]}."
    return {**dict.fromkeys(of_other, advice), **BOTH_ENGINES, **REMOVED[engine]}


def unused_variable_warnings(
    environ: Mapping[str, str], known: Collection[str], removed: Mapping[str, str]
) -> list[str]:
    """Return a line for each variable with a value that looks like a setting but has no effect."""
    warnings = []
    for name in sorted(environ.keys() - set(known)):
        value = clean_value(environ[name])
        is_off = is_zero(value) or value.lower() in FALSE_WORDS
        if not value or is_no_value(value) or (is_off and name not in REPORTED_WHEN_OFF):
            continue
        if name in removed:
            warnings.append(f"{name} has no effect: {removed[name]}")
        elif not name.startswith(PREFIXES_OF_OTHERS):
            spelled = name.strip().replace("-", "_").upper()
            similar = difflib.get_close_matches(spelled, known, n=1, cutoff=MIN_SIMILARITY)
            if similar:
                warnings.append(
                    f"{name} is not a setting and has no effect: did you mean {similar[0]}?"
                )
    return warnings


def refuse_old_flags(
    arguments: Sequence[str], names: Collection[str], removed: Mapping[str, str]
) -> None:
    """Refuse flags in ENGINE_ARGS that the engine no longer has, and name their replacement.

    Raises:
        InvalidSetting: names the flag and what to do.
    """
    for argument in arguments:
        option = argument.split("=")[0]
        name = option.removeprefix("--").replace("-", "_").upper()
        if not option.startswith("--") or name in names or name in SERVER_ONLY:
            continue
        if name in OLD_NAMES:
            raise InvalidSetting(
                f"ENGINE_ARGS: {option} is an old flag: set {name} as a variable, which is "
                "translated."
            )
        if name in removed:
            raise InvalidSetting(f"ENGINE_ARGS: {option} is an old flag: {removed[name]}")
