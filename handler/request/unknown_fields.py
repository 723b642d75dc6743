"""Body fields that the engine does not have on a route: renamed, removed, ignored or rejected.

Both engines ignore unknown fields silently. The worker handles each, in this order:

1. Another name of an engine field (SYNONYMS, TEMPLATE_VARIABLES): renamed.
2. A constraint of the output: translated (`structured_outputs`).
3. A field that changes the output (CHANGES_OUTPUT): removed if it has its default, else rejected.
4. A field that cannot change the output: ignored (TOLERATED), or ignored with a warning if a user
   may expect an effect (IGNORED).
5. A misspelt engine field: rejected.
6. Any other field: ignored with a warning, because clients send fields for other servers. In the
   native input, which only people write, it is rejected.

Each field has one warning per worker.
"""

import difflib
import functools
import logging
import re
from collections.abc import Mapping
from typing import Any

from handler.errors import InvalidInput
from handler.request.structured_outputs import translate_constraints

log = logging.getLogger(__name__)

# Names of the same field in OpenAI, Anthropic, vLLM, SGLang and text-generation-webui.
SYNONYMS = (
    ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens"),
    ("min_tokens", "min_new_tokens"),
    ("stop", "stop_sequences", "stopping_strings"),
    ("seed", "sampling_seed"),
    ("include_stop_str_in_output", "no_stop_trim"),
)

# Fields that change the output, and their values that do not.
CHANGES_OUTPUT: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "beam_width": (1,),
    "best_of": (1,),
    "chat_template": ("",),
    "continue_final_message": (False,),
    "conversation": (),
    "custom_logit_processor": ("",),
    "documents": ([],),
    "early_stopping": (False,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "grammar": ("",),
    "ignore_eos": (False,),
    "input_ids": ([],),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "logprob_token_ids": ([],),
    "logprobs": (False,),
    "lora_path": ("",),
    "mcp_servers": ([],),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": ([], ["text"]),
    "n": (1,),
    "num_beams": (1,),
    "presence_penalty": (0,),
    "prompt_logprobs": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "return_logprob": (False,),
    "sampling_params": ({},),
    "skip_special_tokens": (True,),
    "stop_regex": ("", []),
    "stop_token_ids": ([],),
    "suffix": ("",),
    "thinking_token_budget": (-1,),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}
ALTERNATIVES = {
    "best_of": "use n",
    "function_call": "use tools and tool_choice",
    "functions": "use tools and tool_choice",
    "grammar": "use guided_grammar",
    "lora_path": "put the adapter's name into model",
    "sampling_params": "it is for the native input only; send its fields at the top level",
}

# Fields for the services of OpenAI and Anthropic: billing, storage, caches, tracing.
TOLERATED = frozenset(
    "background betas cache_control client_metadata container context_management include"
    " inference_geo max_tool_calls metadata moderation parallel_tool_calls prediction"
    " prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier service_tier"
    " speed store stream_options truncation user".split()
)
IGNORED = {
    "batch_size": "the worker paces streams itself",
    "batch_size_growth_factor": "the worker paces streams itself",
    "guided_decoding_backend": "an engine setting chooses the backend",
    "guided_whitespace_pattern": "the engine decides on whitespace",
    "max_batch_size": "the worker paces streams itself",
    "min_batch_size": "the worker paces streams itself",
    "verbosity": "the model has no such setting",
}
# Variables of chat templates that are body fields in other APIs.
TEMPLATE_VARIABLES = ("enable_thinking",)
MODEL = "model"  # the parser checks it
CHAT_TEMPLATE_KWARGS = "chat_template_kwargs"

MAX_LOGGED_FIELDS = 200
MAX_LOGGED_NAME_CHARACTERS = 60
MISSPELT_RATIO = 0.9  # above 0.86, the ratio of `repetition_penalty_range`, a real field
MIN_MISSPELT_CHARACTERS = 5
MAX_MISSPELT_CHARACTERS = 50


class FieldTranslator:
    """Translates bodies for one engine.

    Args:
        request_fields: the engine's body fields by POST path.
    """

    def __init__(self, request_fields: Mapping[str, frozenset[str]]) -> None:
        self._request_fields = request_fields
        self._logged: set[str] = set()

    def known(self, path: str) -> frozenset[str]:
        """Return the engine's fields on a path, or an empty set if they are unknown."""
        return self._request_fields.get(path, frozenset())

    def translate(self, path: str, body: dict[str, Any], *, native: bool) -> None:
        """Change `body` in place, so that the engine ignores no field with an effect.

        Raises:
            InvalidInput: a field is not supported.
        """
        known = self.known(path)
        if not known:
            return
        _rename_synonyms(body, known)
        _move_template_variables(body, known)
        _rename_reasoning_effort(body, known)
        translate_constraints(path, body, known)
        for name in [name for name in body if name not in known and name != MODEL]:
            if name in CHANGES_OUTPUT:
                _remove_or_reject(path, body, name)
            elif name in IGNORED:
                self.log_once(name, "%s is ignored: %s", _shown(name), IGNORED[name])
                del body[name]
            elif name not in TOLERATED:
                self._ignore_or_reject(path, body, known, name, native=native)

    def log_once(self, name: str, message: str, *arguments: object) -> None:
        """Log a warning once per name."""
        if name not in self._logged and len(self._logged) < MAX_LOGGED_FIELDS:
            self._logged.add(name)
            log.warning(message, *arguments)

    def _ignore_or_reject(
        self, path: str, body: Mapping[str, Any], known: frozenset[str], name: str, *, native: bool
    ) -> None:
        near = _misspelt(name, known) if len(name) <= MAX_MISSPELT_CHARACTERS else None
        if native and near is None:
            near = next(iter(difflib.get_close_matches(name, known, n=1)), None)
        if native or (near is not None and near not in body):
            advice = f": did you mean {near!r}?" if near else "."
            raise InvalidInput(f"The engine has no field {name!r} on {path}{advice}", name)
        self.log_once(name, "%s is ignored: the engine has no such field on %s", _shown(name), path)


def _rename_synonyms(body: dict[str, Any], known: frozenset[str]) -> None:
    for names in SYNONYMS:
        own = next((name for name in names if name in known), None)
        for name in names:
            if own is None or name not in body or name in known:
                continue
            value = body.pop(name)
            if own in body and body[own] != value:
                raise InvalidInput(
                    f"{name} and {own} have different values: send {own} only.", name
                )
            body[own] = value


def _move_template_variables(body: dict[str, Any], known: frozenset[str]) -> None:
    for name in TEMPLATE_VARIABLES:
        variables = body.get(CHAT_TEMPLATE_KWARGS, {})
        if CHAT_TEMPLATE_KWARGS in known and name in body and isinstance(variables, dict):
            body[CHAT_TEMPLATE_KWARGS] = {name: body.pop(name), **variables}


def _rename_reasoning_effort(body: dict[str, Any], known: frozenset[str]) -> None:
    """Convert OpenRouter's `reasoning: {"effort": …}` to OpenAI's `reasoning_effort`."""
    reasoning = body.get("reasoning")
    if "reasoning" in known or "reasoning_effort" not in known or not isinstance(reasoning, dict):
        return
    if reasoning.keys() == {"effort"}:
        body.setdefault("reasoning_effort", body.pop("reasoning")["effort"])


def _remove_or_reject(path: str, body: dict[str, Any], name: str) -> None:
    value = body[name]
    neutral = CHANGES_OUTPUT[name]
    if not (value in neutral or (name == "best_of" and value == body.get("n"))):
        advice = ALTERNATIVES.get(name, "remove it")
        raise InvalidInput(f"The engine does not support {name} on {path}: {advice}.", name)
    del body[name]


@functools.lru_cache(maxsize=512)  # a client sends the same fields each time
def _misspelt(name: str, known: frozenset[str]) -> str | None:
    """Return the field that a name misspells: its case, its separators, or one or two letters."""
    by_letters = {_letters(field): field for field in known}
    if _letters(name) in by_letters:
        return by_letters[_letters(name)]
    if len(name) < MIN_MISSPELT_CHARACTERS:
        return None
    near = difflib.get_close_matches(name, known, n=1, cutoff=MISSPELT_RATIO)
    return near[0] if near else None


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _shown(name: str) -> str:
    return repr(name[:MAX_LOGGED_NAME_CHARACTERS])
