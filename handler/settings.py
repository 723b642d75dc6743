"""One frozen settings object; environ.py reads it, once.

Here stand the worker's own settings. Every other variable that is named like a flag of the
engine (`GPU_MEMORY_UTILIZATION`, `MAX_NUM_SEQS` …) reaches the engine through
`handler/engine/flags.py`, which asks the engine's own parser; this module knows none of them.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from handler.engine.pacing import POSTS_PER_SECOND
from handler.engine.speculative import Method, method_named
from handler.model.reference import one_word
from handler.setting_types import parse_domains, parse_origins

Token = Annotated[SecretStr, AfterValidator(one_word)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _unless_linked(value: object) -> object:
    """Leave out what Docker and Kubernetes say of a service named so: `tcp://10.0.0.1:80`."""
    return None if isinstance(value, str) and value.startswith("tcp://") else value


def _origins(text: str) -> str:
    parse_origins(text)
    return text


def _domains(text: str) -> str:
    parse_domains(text)
    return text


Lower = Annotated[str, AfterValidator(str.lower)]


class Settings(BaseSettings):
    """The worker's settings; each field's alias is the variable's name.

    Raises:
        pydantic.ValidationError: through `environ.load`, which turns it into `BadSetting`.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    model_name: str | None = Field(
        None,
        validation_alias=AliasChoices("MODEL_NAME", "MODEL_PATH"),
        description="Hub repository or local folder",
    )
    model_revision: str | None = Field(
        None, validation_alias="MODEL_REVISION", description="Branch, tag or commit of MODEL_NAME"
    )
    served_model_name: str | None = Field(
        None,
        validation_alias=AliasChoices("SERVED_MODEL_NAME", "OPENAI_SERVED_MODEL_NAME_OVERRIDE"),
        description="The name that callers use; the repository's name unless set",
    )
    quantization: Lower = Field(
        "auto",
        validation_alias="QUANTIZATION",
        description="auto takes what the checkpoint says; awq, fp8, none … are checked against it",
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
    speculative_method: Annotated[Method, BeforeValidator(method_named)] = Field(
        "none",
        validation_alias=AliasChoices("SPECULATIVE_METHOD", "SPECULATIVE_ALGORITHM", "SPEC_METHOD"),
        description="How tokens are drafted ahead: ngram needs no model, mtp is in the model's own",
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
        description="Tokens drafted in a step; 4, with eagle 3, with mtp 1 unless set",
    )
    speculative_config: str | None = Field(
        None,
        validation_alias="SPECULATIVE_CONFIG",
        description="Speculative decoding as the engine's own JSON, which wins; a model in it is "
        "found like MODEL_NAME",
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
        description="Chat prefixes that are prefilled before the first job: a JSON list, or a file "
        "with one",
    )
    engine: Literal["vllm", "sglang"] = Field(
        "vllm", validation_alias="ENGINE", description="Which engine serves the model"
    )
    engine_args: str = Field(
        "",
        validation_alias=AliasChoices("ENGINE_ARGS", "VLLM_EXTRA_ARGS"),
        description="More flags for the engine as on its command line; they win over variables",
    )
    max_concurrency: Literal["auto"] | PositiveInt = Field(
        "auto",
        validation_alias="MAX_CONCURRENCY",
        description="Jobs at once; auto is what the engine can batch and its KV cache holds",
    )
    max_posts_per_second: PositiveFloat = Field(
        POSTS_PER_SECOND,
        validation_alias="MAX_POSTS_PER_SECOND",
        description="Flushes of all streams together; with more streams each waits longer",
    )
    request_timeout_seconds: PositiveFloat | None = Field(
        None, validation_alias="REQUEST_TIMEOUT", description="Seconds until a job fails with 408"
    )
    drain_timeout_seconds: PositiveFloat = Field(
        30.0,
        validation_alias="DRAIN_TIMEOUT",
        description="Seconds that running jobs get after SIGTERM",
    )
    hf_token: Token | None = Field(
        None,
        validation_alias=AliasChoices("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        description="Token for gated and private repositories",
    )
    base_path: Path = Field(
        Path("/runpod-volume"),
        validation_alias="BASE_PATH",
        description="Network volume; models are cached below it when it is there",
    )
    cache_root: Path = Field(
        Path("~/.cache/llm-worker"),
        validation_alias="CACHE_ROOT",
        description="Folder of what the engine compiles, kept from one start to the next",
    )
    volume_cache: bool = Field(
        True,
        validation_alias="VOLUME_CACHE",
        description="Whether CACHE_ROOT is restored from the network volume and copied back",
    )
    prefetch_weights: bool = Field(
        True,
        validation_alias="PREFETCH_WEIGHTS",
        description="Whether the weights are read into the page cache while the engine is imported",
    )
    allowed_media_domains: Annotated[str, AfterValidator(_domains)] = Field(
        "",
        validation_alias="ALLOWED_MEDIA_DOMAINS",
        description="Where media may be fetched from (a.example,b.example); anywhere public "
        "unless set",
    )
    serve_mode: Literal["auto", "queue", "http", "local"] = Field(
        "auto",
        validation_alias="SERVE_MODE",
        description="auto is queue on a queue endpoint, http where PORT is set, else local",
    )
    port: Annotated[Port | None, BeforeValidator(_unless_linked)] = Field(
        None,
        validation_alias="PORT",
        description="Of HTTP; 80 on an endpoint and 8000 elsewhere unless set",
    )
    port_health: Port | None = Field(
        None, validation_alias="PORT_HEALTH", description="Of /ping, if that is another one"
    )
    http_host: str = Field(
        "0.0.0.0", validation_alias="HTTP_HOST", description="Address that HTTP is served on"
    )
    api_key: SecretStr | None = Field(
        None,
        validation_alias="API_KEY",
        description="One or several keys (first,second); HTTP wants one of them",
    )
    allow_unauthenticated: bool = Field(
        False,
        validation_alias="ALLOW_UNAUTHENTICATED",
        description="Whether HTTP may be served to anybody, without API_KEY",
    )
    max_queue: NonNegativeInt = Field(
        256,
        validation_alias="MAX_QUEUE",
        description="HTTP requests that may wait for the engine; more are answered with 429",
    )
    cors_origins: Annotated[str, AfterValidator(_origins)] = Field(
        "",
        validation_alias="CORS_ORIGINS",
        description="Web pages that may call HTTP (https://a.example,https://b.example), or *",
    )
    metrics_port: Port | None = Field(
        None,
        validation_alias="METRICS_PORT",
        description="Of /metrics on a queue endpoint, where nothing else is served",
    )
    pushgateway: str | None = Field(
        None,
        validation_alias="PROMETHEUS_PUSHGATEWAY",
        description="URL of a Pushgateway that gets the metrics, and forgets them at the end",
    )
    push_job: str = Field(
        "llm-worker",
        validation_alias="PROMETHEUS_JOB",
        description="The metrics' label `job` in the Pushgateway",
    )
    playground: bool = Field(
        True, validation_alias="PLAYGROUND", description="Whether HTTP has a page to chat at /"
    )
    log_content: bool = Field(
        False,
        validation_alias="LOG_CONTENT",
        description="Whether prompts and answers go to the log",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias="LOG_LEVEL", description="Of the worker and the engine"
    )
    log_format: Literal["text", "json"] = Field(
        "text", validation_alias="LOG_FORMAT", description="One line of text or of JSON per event"
    )
    job_url: str | None = Field(
        None,
        validation_alias="RUNPOD_WEBHOOK_GET_JOB",
        description="Set by the platform: where jobs come from; without it test_input.json runs",
    )
    endpoint_id: str | None = Field(
        None,
        validation_alias="RUNPOD_ENDPOINT_ID",
        description="Set by the platform: its gateway is in front, and checks keys",
    )
    worker_id: str | None = Field(
        None, validation_alias="RUNPOD_POD_ID", description="Set by the platform: this worker"
    )

    def secrets(self) -> list[str]:
        """Return the texts that nobody may read: tokens and keys."""
        texts = [each.get_secret_value() for each in (self.hf_token, self.api_key) if each]
        return [word.strip() for text in texts for word in text.split(",") if word.strip()]

    @property
    def media_domains(self) -> frozenset[str]:
        """The domains in ALLOWED_MEDIA_DOMAINS, which may be a JSON list as well."""
        return parse_domains(self.allowed_media_domains)

    @property
    def mode(self) -> Literal["queue", "http", "local"]:
        """Which front door is open."""
        if self.serve_mode != "auto":
            return self.serve_mode
        if self.job_url is not None:
            return "queue"
        return "local" if self.port is None else "http"

    @property
    def http_port(self) -> int:
        """The port of HTTP; the platform's gateway asks 80 unless PORT says otherwise."""
        return self.port or (80 if self.endpoint_id else 8000)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing by itself: `load` passes what it read from the environ it was given."""
        return (init_settings,)
