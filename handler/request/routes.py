"""The engine's routes that callers may use, by the names that they have without a prefix."""

POST = {
    "chat/completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "messages/count_tokens": "/v1/messages/count_tokens",
    "embeddings": "/v1/embeddings",
    "rerank": "/v1/rerank",
    "score": "/v1/score",
    "classify": "/classify",
    "audio/transcriptions": "/v1/audio/transcriptions",
    "tokenize": "/tokenize",
    "detokenize": "/detokenize",
}
GET = {
    "models": "/v1/models",
    "health": "/health",
    "version": "/version",
    "metrics": "/metrics",
}
MULTIPART = {"/v1/audio/transcriptions"}


def route_name(path: str) -> str:
    """Return a path as the routes are named here, however it is spelled."""
    return path.strip("/").removeprefix("openai/").removeprefix("v1/")


def route_names() -> str:
    """Return all names, for a person."""
    return ", ".join([*POST, *GET])


def is_anthropics(path: str) -> bool:
    """Whether a path is of Anthropic's interface."""
    return route_name(path).partition("/")[0] == "messages"


def path_of(data: object) -> str | None:
    """Return the path that a job's input is for, None where that cannot be told."""
    if not isinstance(data, dict):
        return None
    route = data.get("openai_route") or data.get("route")
    if route is None and not data.keys().isdisjoint(("messages", "prompt")):
        route = "chat/completions" if "messages" in data else "completions"
    name = route_name(route.partition("?")[0]) if isinstance(route, str) else ""
    return POST.get(name) or GET.get(name)
