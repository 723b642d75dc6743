"""The objects of Runpod's REST API v2 that a deployment reads; fields have the API's names."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, model_validator


class ApiObject(BaseModel):
    """Null is the same as a missing field."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            return {name: value for name, value in data.items() if value is not None}
        return data


class Resource(ApiObject):
    """An endpoint or a template: a container with a name."""

    noun: ClassVar[str]
    path: ClassVar[str]
    id: str
    name: str = ""
    image: str | None = None
    disk: int | None = None  # GB
    ports: list[str] | None = None
    env: dict[str, str] = {}

    def config(self) -> dict[str, Any]:
        """Return the fields by dotted names, such as `workers.max` and `env.HF_TOKEN`."""
        config: dict[str, Any] = {}
        for name, value in self.model_dump().items():
            if name in ("gpu", "workers", "env"):
                config |= {f"{name}.{key}": each for key, each in value.items()}
            else:
                config[name] = value
        return config


class Template(Resource):
    """A template; an endpoint that was made from it keeps no link to it."""

    noun = "template"
    path = "templates"
    serverless: bool = False


class Endpoint(Resource):
    noun = "endpoint"
    path = "serverless"
    type: Literal["QUEUE", "LOAD_BALANCER"] = "QUEUE"
    gpu: dict[str, Any] = {}
    workers: dict[str, Any] = {}
    scaling: dict[str, Any] | None = None
    timeout: int | None = None  # milliseconds
    flashboot: str | None = None
    networkVolumes: list[str] | None = None
    requestUrls: dict[str, str] = {}

    @property
    def is_queue(self) -> bool:
        return self.type == "QUEUE"

    @property
    def url(self) -> str:
        """The address of the endpoint's own routes."""
        if self.is_queue:
            health = self.requestUrls.get("health", f"https://api.runpod.ai/v2/{self.id}/health")
            return health.removesuffix("/health")
        return self.requestUrls.get("base", f"https://{self.id}.api.runpod.ai").rstrip("/")

    @property
    def openai_url(self) -> str:
        """The base_url of OpenAI clients."""
        return f"{self.url}/openai/v1" if self.is_queue else f"{self.url}/v1"


class WorkerCounts(ApiObject):
    initializing: int = 0
    idle: int = 0
    running: int = 0
    throttled: int = 0
    unhealthy: int = 0

    @property
    def ready(self) -> int:
        return self.idle + self.running

    def __str__(self) -> str:
        states = ("initializing", "ready", "throttled", "unhealthy")
        counts = [f"{getattr(self, state)} {state}" for state in states if getattr(self, state)]
        return ", ".join(counts) or "no worker"


class Worker(ApiObject):
    id: str
    status: str = "UNKNOWN"
    gpuTypeId: str | None = None
    dataCenterId: str | None = None
    uptimeSeconds: int | float | None = None
    isStale: bool = False


class Workers(ApiObject):
    workers: list[Worker] = []
    summary: WorkerCounts = WorkerCounts()


class JobCounts(ApiObject):
    inQueue: int = 0
    inProgress: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
