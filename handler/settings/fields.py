"""The worker's own settings, one frozen object that `environ.py` reads once.

Variables that are named like a flag of the engine (`GPU_MEMORY_UTILIZATION`, `MAX_NUM_SEQS` …) are
not here: `handler/engine/flags/parser.py` takes them from the engine's own parser.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from handler.settings.types import (
    AnyCase,
    Bool,
    Domains,
    HealthPath,
    HubToken,
    LogLevel,
    LowerCase,
    Method,
    ModelNames,
    Origins,
    OwnPort,
    Port,
    Seconds,
    SecondsOrZero,
    parse_domains,
    parse_model_names,
)

POSTS_PER_SECOND = 2000.0


class Settings(BaseSettings):
    """The worker's settings; the aliases of a field are its variables."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    model_name: str | None = Field(
        None,
        validation_alias=AliasChoices("MODEL_NAME", "MODEL_PATH"),
        description="Hub repository or local folder",
    )
    model_revision: str | None = Field(
        None, validation_alias="MODEL_REVISION", description="Branch, tag or commit of MODEL_NAME"
    )
    served_model_name: ModelNames = Field(
        "",
        validation_alias=AliasChoices("SERVED_MODEL_NAME", "OPENAI_SERVED_MODEL_NAME_OVERRIDE"),
        description="Model names (first,second), default: the repository; responses have the first",
    )
    quantization: LowerCase = Field(
        "auto",
        validation_alias="QUANTIZATION",
        description="auto uses the checkpoint's method; awq, fp8, none … are checked against it",
    )
    tokenizer_name: str | None = Field(
        None,
        validation_alias=AliasChoices("TOKENIZER_NAME", "TOKENIZER", "TOKENIZER_PATH"),
        description="Repository or folder of another tokenizer than the model's own",
    )
    tokenizer_revision: str | None = Field(
        None,
        validation_alias="TOKENIZER_REVISION",
        description="Branch, tag or commit of TOKENIZER_NAME",
    )
    custom_chat_template: str | None = Field(
        None,
        validation_alias=AliasChoices("CUSTOM_CHAT_TEMPLATE", "CHAT_TEMPLATE"),
        description="Jinja chat template: a path or the text itself",
    )
    speculative_method: Method = Field(
        "none",
        validation_alias=AliasChoices("SPECULATIVE_METHOD", "SPECULATIVE_ALGORITHM", "SPEC_METHOD"),
        description="How tokens are drafted: ngram needs no draft model, mtp uses the model's own "
        "layers",
    )
    speculative_model: str | None = Field(
        None,
        validation_alias=AliasChoices(
            "SPECULATIVE_MODEL",
            "SPECULATIVE_DRAFT_MODEL_PATH",
            "SPECULATIVE_DRAFT_MODEL",
            "SPEC_MODEL",
        ),
        description="Repository or folder of the draft model, for draft, eagle and eagle3",
    )
    speculative_model_revision: str | None = Field(
        None,
        validation_alias=AliasChoices(
            "SPECULATIVE_MODEL_REVISION", "SPECULATIVE_DRAFT_MODEL_REVISION"
        ),
        description="Branch, tag or commit of SPECULATIVE_MODEL",
    )
    num_speculative_tokens: PositiveInt | None = Field(
        None,
        validation_alias=AliasChoices("NUM_SPECULATIVE_TOKENS", "SPEC_TOKENS"),
        description="Tokens drafted per step; by default 4, with eagle 3, with mtp 1",
    )
    speculative_config: str | None = Field(
        None,
        validation_alias="SPECULATIVE_CONFIG",
        description="Speculative decoding as the engine's own JSON, which overrides the other "
        "settings; its draft model is found like MODEL_NAME",
    )
    lora_modules: str | None = Field(
        None,
        validation_alias=AliasChoices("LORA_MODULES", "LORA_PATHS"),
        description="LoRA adapters: a JSON list of name and path (repository or folder), or "
        "name=path",
    )
    prefix_warmup: str | None = Field(
        None,
        validation_alias="PREFIX_WARMUP",
        description="Chat prefixes to prefill before the first job: a JSON list or a file with it",
    )
    engine: Annotated[Literal["vllm", "sglang"], AnyCase] = Field(
        "vllm", validation_alias="ENGINE", description="Which engine serves the model"
    )
    engine_args: str = Field(
        "",
        validation_alias=AliasChoices("ENGINE_ARGS", "VLLM_EXTRA_ARGS"),
        description="More flags for the engine, as on its command line; they override variables",
    )
    engine_config_file: str | None = Field(
        None,
        validation_alias=AliasChoices("ENGINE_CONFIG_FILE", "VLLM_CONFIG_FILE"),
        description="YAML file of flags, as the engine's --config takes it; variables override it",
    )
    max_concurrency: Annotated[Literal["auto"] | PositiveInt, AnyCase] = Field(
        "auto",
        validation_alias="MAX_CONCURRENCY",
        description="Concurrent jobs; auto: as many as fit into the engine's batch and KV cache, "
        "and on a queue into the ids that the SDK's ping can name, about 170",
    )
    max_posts_per_second: PositiveFloat = Field(
        POSTS_PER_SECOND,
        validation_alias="MAX_POSTS_PER_SECOND",
        description="Most POSTs of all streams per second; up to 176 streams share 800",
    )
    request_timeout_seconds: Seconds | None = Field(
        None, validation_alias="REQUEST_TIMEOUT", description="Seconds until a job fails with 408"
    )
    drain_timeout_seconds: Seconds = Field(
        30.0,
        validation_alias="DRAIN_TIMEOUT",
        description="Seconds for running jobs to end after SIGTERM",
    )
    max_json_values: PositiveInt = Field(
        250_000,
        validation_alias="MAX_JSON_VALUES",
        description="Strings, numbers, objects and lists in a request's JSON, beyond as many as "
        "the context has tokens; more get 413",
    )
    max_request_items: PositiveInt = Field(
        8_192,
        validation_alias="MAX_REQUEST_ITEMS",
        description="Objects and texts in a request's messages, tools (without their schemas), "
        "inputs and documents together; more get 400",
    )
    max_sequences_per_request: PositiveInt = Field(
        128,
        validation_alias="MAX_SEQUENCES_PER_REQUEST",
        description="Prompts of a request times the answers to each (n, best_of); more get 400",
    )
    max_sampling_items: PositiveInt = Field(
        1_024,
        validation_alias="MAX_SAMPLING_ITEMS",
        description="Entries of a request's stop, bad_words, logit_bias and lists of token ids",
    )
    max_top_logprobs: PositiveInt = Field(
        20,
        validation_alias="MAX_TOP_LOGPROBS",
        description="SGLang: log probabilities that a request may ask for at each token; more get "
        "400. vLLM's own setting is MAX_LOGPROBS",
    )
    max_schema_bytes: PositiveInt = Field(
        131_072,
        validation_alias="MAX_SCHEMA_BYTES",
        description="Bytes of a request's JSON schemas, grammars, regexes, choices; more get 400",
    )
    max_schema_items: PositiveInt = Field(
        2_048,
        validation_alias="MAX_SCHEMA_ITEMS",
        description="Properties, enumerated values and alternatives of these constraints",
    )
    startup_error_seconds: SecondsOrZero = Field(
        60.0,
        validation_alias="STARTUP_ERROR_SECONDS",
        description="Seconds without a job until a worker whose start cannot succeed ends; until "
        "then it fails jobs with the reason. 0: it takes none, and is reported as unhealthy",
    )
    hf_token: HubToken | None = Field(
        None,
        validation_alias=AliasChoices("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        description="Token for gated and private repositories",
    )
    base_path: Path = Field(
        Path("/runpod-volume"),
        validation_alias="BASE_PATH",
        description="Mount of the network volume; models are cached there if it exists",
    )
    cache_root: Path = Field(
        Path("~/.cache/llm-worker"),
        validation_alias="CACHE_ROOT",
        description="Folder for the engine's compiled code, kept from one start to the next",
    )
    volume_cache: Bool = Field(
        True,
        validation_alias="VOLUME_CACHE",
        description="Whether CACHE_ROOT is restored from the network volume and copied back",
    )
    cache_max_gb: PositiveFloat = Field(
        10.0,
        validation_alias="CACHE_MAX_GB",
        description="Gigabytes of compiled code in an endpoint's archives on the network volume, "
        "and in the folders below CACHE_ROOT; what was used longest ago goes first",
    )
    prefetch_weights: Bool = Field(
        True,
        validation_alias="PREFETCH_WEIGHTS",
        description="Whether the weights are read into the page cache while the engine is imported",
    )
    allowed_media_domains: Domains = Field(
        "",
        validation_alias="ALLOWED_MEDIA_DOMAINS",
        description="Domains that media may be fetched from (a.example,b.example); by default "
        "every public one",
    )
    serve_mode: Annotated[Literal["auto", "queue", "http", "local"], AnyCase] = Field(
        "auto",
        validation_alias="SERVE_MODE",
        description="auto is queue on a queue endpoint, http where PORT is set and on the rest of "
        "the platform (load balancers, Pods), else local",
    )
    port: OwnPort = Field(
        None,
        validation_alias="PORT",
        description="Port of HTTP; by default 80 on the platform and 8000 elsewhere",
    )
    port_health: Port | None = Field(
        None, validation_alias="PORT_HEALTH", description="Port of /ping, if it is not PORT"
    )
    health_check_path: HealthPath = Field(
        "/ping",
        validation_alias="HEALTH_CHECK_PATH",
        description="Another path that is answered like /ping, without a key",
    )
    http_host: str = Field(
        "0.0.0.0", validation_alias="HTTP_HOST", description="Address to serve HTTP on"
    )
    api_key: SecretStr | None = Field(
        None,
        validation_alias="API_KEY",
        description="One or several keys (first,second); HTTP requests need one of them",
    )
    allow_unauthenticated: Bool = Field(
        False,
        validation_alias="ALLOW_UNAUTHENTICATED",
        description="Whether HTTP may be served without API_KEY, to everybody",
    )
    max_queue: NonNegativeInt = Field(
        256,
        validation_alias="MAX_QUEUE",
        description="HTTP requests that may wait for the engine; more get 429",
    )
    cors_origins: Origins = Field(
        "",
        validation_alias="CORS_ORIGINS",
        description="Web pages that may call HTTP (https://a.example,https://b.example), or *",
    )
    price_per_second: Seconds | None = Field(
        None,
        validation_alias="PRICE_PER_SECOND",
        description="Dollars that the worker costs per second, for the log and the metrics; by "
        "default what its GPUs cost on Runpod",
    )
    metrics_port: Port | None = Field(
        None,
        validation_alias="METRICS_PORT",
        description="Port of /metrics on a queue endpoint, which serves no other HTTP",
    )
    pushgateway: str | None = Field(
        None,
        validation_alias="PROMETHEUS_PUSHGATEWAY",
        description="URL of a Pushgateway for the metrics, which are deleted there at the end",
    )
    push_job: str = Field(
        "llm-worker",
        validation_alias="PROMETHEUS_JOB",
        description="The metrics' label `job` in the Pushgateway",
    )
    playground: Bool = Field(
        True, validation_alias="PLAYGROUND", description="Whether HTTP serves a chat page at /"
    )
    log_content: Bool = Field(
        False,
        validation_alias="LOG_CONTENT",
        description="Whether prompts and answers are logged",
    )
    log_level: LogLevel = Field(
        "INFO",
        validation_alias="LOG_LEVEL",
        description="Log level of the worker and the engine, also WARN, TRACE or 20",
    )
    log_format: Annotated[Literal["text", "json"], AnyCase] = Field(
        "text", validation_alias="LOG_FORMAT", description="One line of text or of JSON per event"
    )
    job_url: str | None = Field(
        None,
        validation_alias="RUNPOD_WEBHOOK_GET_JOB",
        description="Set by the platform: the URL of the queue; without it test_input.json is run",
    )
    endpoint_id: str | None = Field(
        None,
        validation_alias="RUNPOD_ENDPOINT_ID",
        description="Set by the platform: the endpoint, whose gateway checks keys",
    )
    worker_id: str | None = Field(
        None, validation_alias="RUNPOD_POD_ID", description="Set by the platform: this worker"
    )

    def secrets(self) -> list[str]:
        """Return the tokens and keys that must not appear in any output."""
        texts = [each.get_secret_value() for each in (self.hf_token, self.api_key) if each]
        return [word.strip() for text in texts for word in text.split(",") if word.strip()]

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names in SERVED_MODEL_NAME, which may also be a JSON list."""
        return parse_model_names(self.served_model_name)

    @property
    def media_domains(self) -> frozenset[str]:
        """The domains in ALLOWED_MEDIA_DOMAINS, which may also be a JSON list."""
        return parse_domains(self.allowed_media_domains)

    @property
    def mode(self) -> Literal["queue", "http", "local"]:
        """The front end that is served."""
        if self.serve_mode != "auto":
            return self.serve_mode
        if self.job_url is not None:
            return "queue"
        return "http" if self.port is not None or self.is_on_platform else "local"

    @property
    def is_on_platform(self) -> bool:
        """Whether this is a worker of an endpoint, or a Pod."""
        return self.endpoint_id is not None or self.worker_id is not None

    @property
    def http_port(self) -> int:
        """The port of HTTP; the platform's gateway connects to 80 unless PORT is set."""
        return self.port or (80 if self.is_on_platform else 8000)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read no environment here: `load_settings` passes the values."""
        return (init_settings,)
