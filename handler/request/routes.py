"""The engine's routes that callers may use, by their names without a prefix."""

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
NAMES = ", ".join([*POST, *GET])


def route_name(path: str) -> str:
    """Return the name of a path in the tables above, with whatever prefix it is spelled."""
    return path.strip("/").removeprefix("openai/").removeprefix("v1/")


def is_anthropic(path: str) -> bool:
    """Whether a path belongs to Anthropic's API."""
    return route_name(path).partition("/")[0] == "messages"


def path_of_input(data: object) -> str | None:
    """Return the engine's path for a job's input, None if it names none."""
    if not isinstance(data, dict):
        return None
    given = {name for name, value in data.items() if value is not None}
    route = data.get("openai_route") or data.get("route")
    if route is None and given & {"messages", "openai_input"}:
        route = "chat/completions"
    elif route is None and given & {"prompt", "text", "input_ids"}:
        route = "completions"
    name = route_name(route.partition("?")[0]) if isinstance(route, str) else ""
    return POST.get(name) or GET.get(name)
