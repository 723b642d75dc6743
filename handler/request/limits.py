"""Bounds on what one request may ask of the engine, so that it does not stop the others.

| bound                 | setting                   |
| --------------------- | ------------------------- |
| size of a constraint  | MAX_SCHEMA_BYTES          |
| parts of a constraint | MAX_SCHEMA_ITEMS          |
| prompts times answers | MAX_SEQUENCES_PER_REQUEST |
| lists of the sampling | MAX_SAMPLING_ITEMS        |
| top log probabilities | MAX_TOP_LOGPROBS          |

The engines have none for these, or one that is far too high: vLLM takes 16,384 answers to each of
any number of prompts. Top log probabilities are bounded for SGLang, whose scheduler ends where they
are more than the vocabulary; vLLM has a bound of its own, `MAX_LOGPROBS`. What a `stop_regex` costs
is bounded in its own module.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from handler.errors import InvalidInput
from handler.request.json_text import shown
from handler.request.routes import POST
from handler.request.schema_check import ConstraintBounds, Size, total
from handler.request.stop_regex import check_stop_regex
from handler.settings.fields import Settings

SAMPLING_PARAMS = "sampling_params"  # SGLang's own input
ANSWERS = ("n", "best_of", "num_beams", "beam_width")
SAMPLING_LISTS = (
    "stop stop_sequences stop_regex stop_token_ids bad_words logit_bias allowed_token_ids "
    "logprob_token_ids token_ids_logprob".split()
)
TOP_LOGPROBS = ("logprobs", "top_logprobs", "top_logprobs_num")
PROMPTS = {
    POST["completions"]: "prompt",
    POST["chat/completions/batch"]: "messages",
    POST["generate"]: "text",
}
TOKEN_IDS = {POST["generate"]: "input_ids"}
SCHEMA_KINDS = ("json", "json_schema")
TEXT_KINDS = ("regex", "grammar", "ebnf")
TAG_KINDS = ("structural_tag",)
CHOICE_KINDS = ("choice",)
FORMATS = (
    ("response_format",),
    ("text", "format"),
    ("output_config", "format"),
    ("output_format",),
)
FREE_CHOICES = (None, "auto", "none")
# Parameters of disaggregated serving. As one of vllm_xargs each is a number, a text or a list,
# which the engine takes for an object.
INTERNAL_XARGS = ("kv_transfer_params", "ec_transfer_params", "kv_cache_report_mode")


@dataclass(frozen=True)
class RequestLimits:
    """The bounds of a request.

    Attributes:
        max_schema_bytes: of a schema, grammar, regex, or of the choices; and of all together.
        max_schema_items: properties, enumerated values and alternatives; likewise.
        max_sequences: prompts times answers to each.
        max_sampling_items: entries of `stop`, `bad_words`, `logit_bias` and similar fields.
        max_top_logprobs: log probabilities at each token, None where the engine checks them.
        constrains_tools: whether the engine compiles tools of which the model may call none.
    """

    max_schema_bytes: int
    max_schema_items: int
    max_sequences: int
    max_sampling_items: int
    max_top_logprobs: int | None = None
    constrains_tools: bool = False

    @classmethod
    def from_settings(cls, settings: Settings, *, constrains_tools: bool = False) -> Self:
        return cls(
            max_schema_bytes=settings.max_schema_bytes,
            max_schema_items=settings.max_schema_items,
            max_sequences=settings.max_sequences_per_request,
            max_sampling_items=settings.max_sampling_items,
            max_top_logprobs=settings.max_top_logprobs if settings.engine == "sglang" else None,
            constrains_tools=constrains_tools,
        )

    def check(self, path: str, body: Mapping[str, Any]) -> None:
        """Check a body in the engine's own fields.

        Raises:
            InvalidInput: a bound is passed; the message has its setting.
        """
        samplings = body.get(SAMPLING_PARAMS)
        several = samplings if isinstance(samplings, list) else [samplings]
        fields = [body, *(each for each in several if isinstance(each, dict))]
        for each in fields:
            self._check_lists(each)
            check_stop_regex(each)
        self._check_logprobs(body)
        self._check_sequences(path, body, max(map(_answers, fields)))
        seen, size = set(), self._check_tools(body)
        for each in fields:
            for value, more in self._checked_constraints(each):
                if (text := repr(value)) not in seen:  # a repeated one is compiled once
                    seen.add(text)
                    size = total((size, more))
                    self._bounds.check_total(size)
        _check_xargs(body)

    def _check_lists(self, fields: Mapping[str, Any]) -> None:
        for name in SAMPLING_LISTS:
            value = fields.get(name)
            if isinstance(value, dict | list) and len(value) > self.max_sampling_items:
                raise InvalidInput(
                    f"{name} has {len(value)} entries; the limit that MAX_SAMPLING_ITEMS sets is "
                    f"{self.max_sampling_items}.",
                    name,
                )

    def _check_logprobs(self, body: Mapping[str, Any]) -> None:
        if (limit := self.max_top_logprobs) is None:
            return
        for name in TOP_LOGPROBS:
            value = body.get(name)
            for each in value if isinstance(value, list) else [value]:
                if each is not None and not 0 <= _integer(name, each) <= limit:
                    raise InvalidInput(
                        f"{name} must be from 0 to {limit}, the limit that MAX_TOP_LOGPROBS sets, "
                        f"got {shown(each)[:60]}.",
                        name,
                    )

    def _check_sequences(self, path: str, body: Mapping[str, Any], answers: int) -> None:
        name, prompts = _prompts(path, body)
        if prompts * answers > self.max_sequences:
            parts = [f"{prompts} prompts"] * (prompts > 1) + [f"{answers} answers"] * (answers > 1)
            raise InvalidInput(
                f"The request has {' x '.join(parts)}; the limit that MAX_SEQUENCES_PER_REQUEST "
                f"sets is {self.max_sequences}: send several requests.",
                name if prompts > 1 else "n",
            )

    def _checked_constraints(self, fields: Mapping[str, Any]) -> Iterator[tuple[Any, Size]]:
        for way in FORMATS:
            value: Any = fields
            for name in way:
                value = value.get(name) if isinstance(value, dict) else None
            if isinstance(value, dict):
                yield value, self._check_format(".".join(way), value)
        yield from self._checked_kinds("", fields)
        if isinstance(inner := fields.get("structured_outputs"), dict):
            yield from self._checked_kinds("structured_outputs.", inner)

    def _check_format(self, name: str, value: dict[str, Any]) -> Size:
        if value.get("type") == "structural_tag":
            return self._bounds.check_schema(name, value, is_tag=True)
        inner = value.get("json_schema")  # OpenAI's chat has the schema in it, responses do not
        schema = (inner if isinstance(inner, dict) else value).get("schema")
        return self._bounds.check_schema(name, schema)

    def _checked_kinds(self, prefix: str, fields: Mapping[str, Any]) -> Iterator[tuple[Any, Size]]:
        for kind in fields.keys() & {*SCHEMA_KINDS, *TEXT_KINDS, *TAG_KINDS, *CHOICE_KINDS}:
            name, value = f"{prefix}{kind}", fields[kind]
            if value in (None, ""):
                continue
            if kind in TEXT_KINDS:
                size = self._bounds.check_text(name, value)
            elif kind in CHOICE_KINDS:
                size = self._bounds.check_choices(name, value)
            else:
                size = self._bounds.check_schema(name, value, is_tag=kind in TAG_KINDS)
            yield value, size

    def _check_tools(self, body: Mapping[str, Any]) -> Size:
        """Check each tool, and return the size of all of them where the engine compiles them."""
        tools = body.get("tools")
        if not isinstance(tools, list):
            return Size()
        sizes = [
            self._bounds.check_schema(f"tools[{number}]", _schema_of(tool))
            for number, tool in enumerate(tools)
            if isinstance(tool, dict)
        ]
        choice = body.get("tool_choice")
        choice = choice.get("type") if isinstance(choice, dict) else choice
        is_strict = any(isinstance(tool, dict) and _is_strict(tool) for tool in tools)
        is_forced = choice not in FREE_CHOICES or body.get("parallel_tool_calls") is False
        if is_strict or is_forced or (self.constrains_tools and choice != "none"):
            size = total(sizes)
            return self._bounds.checked("tools", size._replace(items=size.items + len(tools)))
        return Size()

    @property
    def _bounds(self) -> ConstraintBounds:
        return ConstraintBounds(self.max_schema_bytes, self.max_schema_items)


def _answers(fields: Mapping[str, Any]) -> int:
    """Return how many answers a body asks for to each prompt."""
    given = [(name, fields.get(name)) for name in ANSWERS]
    return max([1, *(_integer(name, value) for name, value in given if value is not None)])


def _integer(name: str, value: Any) -> int:
    """Return a number as the engines read it: they take 2.0 and "2" for 2.

    Raises:
        InvalidInput: it is none, so that what passes was counted.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not number.is_integer():
        raise InvalidInput(f"{name} must be an integer, got {shown(value)[:60]}.", name)
    return int(number)


def _prompts(path: str, body: Mapping[str, Any]) -> tuple[str, int]:
    """Return the field with the prompts and their number; a list of tokens is one prompt."""
    for fields in (PROMPTS, TOKEN_IDS):
        value = body.get(fields.get(path, ""))
        if isinstance(value, list) and value and not isinstance(value[0], int):
            return fields[path], len(value)
    return "prompt", 1


def _schema_of(tool: dict[str, Any]) -> Any:
    """Return a tool's schema in the forms of OpenAI's chat and responses, and of Anthropic."""
    inner = tool.get("function")
    function = inner if isinstance(inner, dict) else tool
    return function.get("parameters", function.get("input_schema"))


def _is_strict(tool: Mapping[str, Any]) -> bool:
    function = tool.get("function")
    return any(isinstance(each, dict) and each.get("strict") is True for each in (tool, function))


def _check_xargs(body: Mapping[str, Any]) -> None:
    given = body.get("vllm_xargs")
    for name in INTERNAL_XARGS:
        if isinstance(given, dict) and name in given:
            raise InvalidInput(f"vllm_xargs must not have {name}: remove it.", "vllm_xargs")
