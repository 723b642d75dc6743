"""One request cannot ask for more than the bounds, and each error names what is wrong."""

import json
from dataclasses import replace

import pytest

from handler.errors import InvalidInput
from handler.request.limits import RequestLimits
from handler.request.parse import RequestParser
from handler.settings.environ import load_settings
from tests.support.engine_fields import ENGINE_FIELDS

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
GENERATE, MESSAGES, BATCH = "/generate", "/v1/messages", "/v1/chat/completions/batch"
LIMITS = RequestLimits(
    max_schema_bytes=1_000, max_schema_items=20, max_sequences=8, max_sampling_items=3
)
WORDS = [f"word {number}" for number in range(21)]
ITEMS = (
    "has more than 20 properties, values and alternatives, the limit that MAX_SCHEMA_ITEMS sets."
)
BYTES = "has more than 1000 bytes, the limit that MAX_SCHEMA_BYTES sets."
REPETITIONS = (
    "has character classes and repetitions {n,m} that stand for more than 4000 characters in all: "
    "use smaller numbers, * or +."
)
REST = "grammars, choices and tools,"
ITSELF = (
    "has a $ref, anyOf, oneOf or allOf that leads back to itself: put a property or an item "
    "between the schema and its repetition."
)


def error(path, body):
    with pytest.raises(InvalidInput) as raised:
        LIMITS.check(path, body)
    return str(raised.value), raised.value.param


def schema_error(schema):
    message, param = error(CHAT, {"structured_outputs": {"json": schema}})
    assert param == "structured_outputs.json"
    return message.removeprefix(param).lstrip(": ")


@pytest.mark.parametrize("constrains_tools", [True, False])
def test_the_defaults_of_the_settings_are_the_bounds_of_the_worker(constrains_tools):
    settings = load_settings({})
    assert RequestLimits.from_settings(
        settings, constrains_tools=constrains_tools
    ) == RequestLimits(
        max_schema_bytes=131_072,
        max_schema_items=2_048,
        max_sequences=128,
        max_sampling_items=1_024,
        max_top_logprobs=None,
        constrains_tools=constrains_tools,
    )
    sglang = load_settings({"ENGINE": "sglang"})
    assert RequestLimits.from_settings(sglang).max_top_logprobs == 20


@pytest.mark.parametrize(
    ("path", "body", "message", "param"),
    [
        (CHAT, {"n": 9}, "The request has 9 answers; ", "n"),
        (COMPLETIONS, {"prompt": "a", "best_of": 9}, "The request has 9 answers; ", "n"),
        (COMPLETIONS, {"prompt": ["a"] * 9}, "The request has 9 prompts; ", "prompt"),
        (COMPLETIONS, {"prompt": [[1]] * 9}, "The request has 9 prompts; ", "prompt"),
        (
            COMPLETIONS,
            {"prompt": ["a", "b", "c"], "n": 3},
            "The request has 3 prompts x 3 answers; ",
            "prompt",
        ),
        (BATCH, {"messages": [[]] * 9}, "The request has 9 prompts; ", "messages"),
        (GENERATE, {"text": ["a"] * 9}, "The request has 9 prompts; ", "text"),
        (GENERATE, {"input_ids": [[1]] * 9}, "The request has 9 prompts; ", "input_ids"),
        (GENERATE, {"text": "a", "sampling_params": {"n": 9}}, "The request has 9 answers; ", "n"),
        (CHAT, {"n": "9"}, "The request has 9 answers; ", "n"),
        (CHAT, {"n": " 9.0"}, "The request has 9 answers; ", "n"),
        (CHAT, {"n": 9.0}, "The request has 9 answers; ", "n"),
        (COMPLETIONS, {"prompt": "a", "best_of": "9"}, "The request has 9 answers; ", "n"),
        (
            GENERATE,
            {"text": "a", "sampling_params": [{"n": 9.0}]},
            "The request has 9 answers; ",
            "n",
        ),
    ],
)
def test_prompts_times_answers_are_bounded(path, body, message, param):
    end = "the limit that MAX_SEQUENCES_PER_REQUEST sets is 8: send several requests."
    assert error(path, body) == (message + end, param)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"n": 8}),
        (COMPLETIONS, {"prompt": list(range(1000)), "n": 8}),
        (COMPLETIONS, {"prompt": ["a"] * 4, "n": 2}),
        (CHAT, {"messages": [{}] * 100}),
        (CHAT, {"n": None, "stop": "a", "logit_bias": {"1": 1}}),
        (CHAT, {"n": "8", "best_of": 8.0}),
        ("/v1/embeddings", {"input": ["a"] * 1000}),
    ],
)
def test_what_is_within_the_bounds_passes(path, body):
    """The engine checks the types of the lists."""
    LIMITS.check(path, body)


@pytest.mark.parametrize("name", ["n", "best_of", "num_beams", "beam_width"])
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("many", "'many'"),
        ("inf", "'inf'"),
        (1.5, "1.5"),
        ([9], "a list"),
        ({}, "an object"),
        (10**400, "1" + "0" * 59),
    ],
    ids=["word", "infinite", "half", "list", "object", "huge"],
)
def test_a_number_of_answers_that_cannot_be_counted_is_rejected(name, value, shown):
    """What the engine would read in another way is not sent to it."""
    message = f"{name} must be an integer, got {shown}."
    assert error(CHAT, {name: value}) == (message, name)
    assert error(GENERATE, {"sampling_params": [{name: value}]}) == (message, name)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"stop": list("abcd")}),
        (CHAT, {"bad_words": list("abcd")}),
        (CHAT, {"logit_bias": dict.fromkeys("1234", 1)}),
        (CHAT, {"allowed_token_ids": [1, 2, 3, 4]}),
        (MESSAGES, {"stop_sequences": list("abcd")}),
        (GENERATE, {"sampling_params": [{"stop_token_ids": [1, 2, 3, 4]}]}),
    ],
)
def test_lists_of_the_sampling_are_bounded(path, body):
    inner = body.get("sampling_params", [body])[0]
    [name] = inner
    assert error(path, body) == (
        f"{name} has 4 entries; the limit that MAX_SAMPLING_ITEMS sets is 3.",
        name,
    )


SGLANG = RequestParser(
    ("m",), "org/m", ENGINE_FIELDS["sglang"], limits=replace(LIMITS, max_top_logprobs=20)
)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (lambda count: {"prompt": "a", "logprobs": count}, "logprobs"),
        (lambda count: {"messages": [], "logprobs": True, "top_logprobs": count}, "top_logprobs"),
        (
            lambda count: {"text": "a", "return_logprob": True, "top_logprobs_num": count},
            "logprobs",
        ),
        (
            lambda count: {"route": "responses", "body": {"input": "a", "top_logprobs": count}},
            "top_logprobs",
        ),
        (
            lambda count: {"route": "generate", "body": {"text": "a", "top_logprobs_num": count}},
            "top_logprobs_num",
        ),
        (
            lambda count: {
                "route": "generate",
                "body": {"text": ["a", "b"], "top_logprobs_num": [1, count]},
            },
            "top_logprobs_num",
        ),
    ],
    ids=["completion", "chat", "native", "responses", "generate", "two prompts"],
)
@pytest.mark.parametrize(
    ("count", "shown"), [(21, "21"), ("21", "'21'"), (-1, "-1")], ids=["int", "text", "negative"]
)
def test_the_top_log_probabilities_of_sglang_are_bounded(data, name, count, shown):
    """More than the vocabulary would end its scheduler, and with it the worker."""
    SGLANG.parse_job({"id": "j", "input": data(20)})
    with pytest.raises(InvalidInput) as raised:
        SGLANG.parse_job({"id": "j", "input": data(count)})
    assert (str(raised.value), raised.value.param) == (
        f"{name} must be from 0 to 20, the limit that MAX_TOP_LOGPROBS sets, got {shown}.",
        name,
    )


def test_the_log_probabilities_of_vllm_have_its_own_bound():
    """MAX_LOGPROBS may be above 20."""
    LIMITS.check(COMPLETIONS, {"prompt": "a", "logprobs": 50})


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        (CHAT, {"structured_outputs": {"json": {"enum": WORDS}}}, "structured_outputs.json"),
        (
            CHAT,
            {"structured_outputs": {"json": json.dumps({"enum": WORDS})}},
            "structured_outputs.json",
        ),
        (CHAT, {"structured_outputs": {"choice": WORDS}}, "structured_outputs.choice"),
        (CHAT, {"structured_outputs": {"regex": "|".join(WORDS)}}, "structured_outputs.regex"),
        (CHAT, {"structured_outputs": {"grammar": "|" * 21}}, "structured_outputs.grammar"),
        (CHAT, {"regex": "|".join(WORDS)}, "regex"),
        (CHAT, {"ebnf": "root ::= " + "|".join(WORDS)}, "ebnf"),
        (
            CHAT,
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"enum": WORDS}},
                }
            },
            "response_format",
        ),
        (
            CHAT,
            {"response_format": {"type": "structural_tag", "structures": [{}] * 21}},
            "response_format",
        ),
        (
            CHAT,
            {"response_format": {"type": "json_object", "schema": {"enum": WORDS}}},
            "response_format",
        ),
        (
            RESPONSES,
            {"text": {"format": {"type": "json_schema", "schema": {"enum": WORDS}}}},
            "text.format",
        ),
        (
            MESSAGES,
            {"output_config": {"format": {"type": "json_schema", "schema": {"enum": WORDS}}}},
            "output_config.format",
        ),
        (
            GENERATE,
            {"sampling_params": {"json_schema": json.dumps({"enum": WORDS})}},
            "json_schema",
        ),
        (CHAT, {"tools": [{"function": {"parameters": {"enum": WORDS}}}]}, "tools[0]"),
        (RESPONSES, {"tools": [{"parameters": {"enum": WORDS}}]}, "tools[0]"),
        (MESSAGES, {"tools": [{"input_schema": {"enum": WORDS}}]}, "tools[0]"),
    ],
)
def test_the_parts_of_a_constraint_are_bounded_wherever_it_stands(path, body, name):
    assert error(path, body) == (f"{name} {ITEMS}", name)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": "[" * 100_000}}},
            "response_format",
        ),
        ({"tools": [{"function": {"parameters": '{"a":' * 100_000}}]}, "tools[0]"),
    ],
    ids=["format", "tool"],
)
def test_a_schema_as_a_text_that_is_nested_too_deeply_is_rejected(body, name):
    limits = replace(LIMITS, max_schema_bytes=10**6)
    parser = RequestParser(("m",), "org/m", ENGINE_FIELDS["vllm"], limits=limits)
    with pytest.raises(InvalidInput) as raised:
        parser.parse_job({"id": "j", "input": {"messages": [], **body}})
    assert (str(raised.value), raised.value.param) == (f"{name} is nested too deeply.", name)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json", {"const": "a" * 1000}),
        ("json", {"a" * 1000: {}}),
        ("json", '{"const": "' + "ä" * 495 + '"}'),
        ("choice", ["a" * 500, "b" * 501]),
        ("regex", "a" * 1001),
        ("grammar", 'root ::= "' + "a" * 1000 + '"'),
        ("structural_tag", json.dumps({"format": {"begin": "a" * 1000}})),
    ],
)
def test_the_bytes_of_a_constraint_are_bounded(kind, value):
    name = f"structured_outputs.{kind}"
    assert error(CHAT, {"structured_outputs": {kind: value}}) == (f"{name} {BYTES}", name)


TOOLS = [
    {"type": "function", "function": {"name": f"f{n}", "parameters": {"enum": WORDS[:15]}}}
    for n in range(2)
]
STRICT = [{"function": {**tool["function"], "strict": True}} for tool in TOOLS]


@pytest.mark.parametrize(
    "body",
    [
        {"tools": TOOLS, "tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f0"}}},
        {"tools": TOOLS, "parallel_tool_calls": False},
        {"tools": STRICT},
    ],
)
def test_tools_are_bounded_together_where_they_constrain_the_output(body):
    assert error(CHAT, body) == (f"tools {ITEMS}", "tools")


@pytest.mark.parametrize("choice", ["auto", "none", {"type": "auto"}])
def test_many_tools_that_constrain_nothing_are_no_matter(choice):
    LIMITS.check(CHAT, {"tools": TOOLS, "tool_choice": choice})


def test_tools_that_the_engine_always_compiles_are_bounded_together():
    """TOOL_STRICT_LEVEL: all tools constrain the output, unless the model may call none."""
    limits = replace(LIMITS, constrains_tools=True)
    for choice in ({}, {"tool_choice": "auto"}):
        with pytest.raises(InvalidInput, match="tools has more than 20 properties"):
            limits.check(CHAT, {"tools": TOOLS} | choice)
    limits.check(CHAT, {"tools": TOOLS, "tool_choice": "none"})


def values(count, first=0):
    return {"enum": [f"value {number}" for number in range(first, first + count)]}


TOOL = {"type": "function", "function": {"strict": True, "parameters": values(10)}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"tools": [TOOL], "structured_outputs": {"json": values(10)}}),
        (
            CHAT,
            {
                "response_format": {"type": "json_schema", "json_schema": {"schema": values(10)}},
                "structured_outputs": {"json": values(11)},
            },
        ),
        (CHAT, {"structured_outputs": {"json": values(10), "choice": WORDS[:11]}}),
        (CHAT, {"regex": "|".join("abcdefghij"), "ebnf": "|".join("abcdefghijk")}),
        (
            GENERATE,
            {"sampling_params": [{"json_schema": json.dumps(values(7, n))} for n in range(3)]},
        ),
    ],
    ids=["tools and format", "two schemas", "schema and choices", "texts", "several prompts"],
)
def test_all_constraints_of_a_request_are_bounded_together(path, body):
    """Each of them is within the bound."""
    assert error(path, body)[0] == f"The request, in all its schemas, {REST} {ITEMS}"
    half = replace(LIMITS, max_schema_items=21)
    half.check(path, body)


def test_bytes_of_all_constraints_are_bounded_together():
    body = {"regex": "a" * 600, "ebnf": "b" * 401}
    assert error(CHAT, body)[0] == f"The request, in all its schemas, {REST} {BYTES}"
    body["ebnf"] = "b" * 400
    LIMITS.check(CHAT, body)


def test_the_same_constraint_for_several_prompts_counts_once():
    """The engine compiles it once."""
    LIMITS.check(GENERATE, {"sampling_params": [{"json_schema": json.dumps(values(15))}] * 8})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}, {"type": "string"}]},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"oneOf": [{"$ref": "#/$defs/b~1"}]}}}
        | {"$defs": {"a": {"oneOf": [{"$ref": "#/$defs/b~1"}]}, "b/": {"$ref": "#/$defs/a"}}},
        {"properties": {"a": {"anyOf": [{"$ref": "#/properties/a/anyOf/0"}]}}},
    ],
    ids=["root", "anyOf", "two definitions", "within a property"],
)
def test_a_schema_that_only_refers_to_itself_is_rejected(schema):
    assert schema_error(schema) == ITSELF
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    assert error(CHAT, {"response_format": form})[0] == f"response_format {ITSELF}"
    tag = {"format": {"type": "json_schema", "json_schema": schema}}
    message, _ = error(CHAT, {"response_format": {"type": "structural_tag", **tag}})
    assert message == f"response_format {ITSELF}"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"anyOf": [{"type": "array", "items": {"$ref": "#"}}, {"type": "string"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
        {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {}}},
        {"$ref": "https://json-schema.org/schema"},
        {"properties": {"minLength": {"type": "integer"}, "$ref": {"type": "string"}}},
        {"const": {"minLength": -1}},
        {"pattern": "a" * 500},
        {"pattern": r"^\d{4}-\d{2}-\d{2}T[a-z({]{1,100}$", "maxLength": 100_000},
        True,
    ],
)
def test_a_usual_schema_passes(schema):
    LIMITS.check(CHAT, {"structured_outputs": {"json": schema}})


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"minLength": -1}, "minLength must not be negative, got -1."),
        ({"items": {"maxItems": -2}}, "maxItems must not be negative, got -2."),
        ({"minItems": 3, "maxItems": 2}, "minItems must not be above maxItems."),
        (
            {"items": {"maxLength": 10**9}},
            "minLength, maxLength, minItems, maxItems and the like are more than 100000 in all: "
            "leave out those that set no real limit.",
        ),
        (
            {"pattern": "((a{100}){100}){100}"},
            REPETITIONS,
        ),
        ({"pattern": "a{4002}"}, REPETITIONS),
        (
            {"anyOf": [{"pattern": "[a-z]{1,2000}"}, {"pattern": "[0-9]{1,2001}"}]},
            REPETITIONS,
        ),
    ],
)
def test_counts_that_no_engine_can_compile_are_rejected(schema, message):
    assert schema_error(schema) == message


def test_character_classes_are_bounded_and_plain_characters_are_not():
    """xgrammar takes a millisecond for each class in a string of a schema."""
    limits = replace(LIMITS, max_schema_bytes=100_000)
    for pattern in ("a" * 50_000, r"\d." * 2_000):
        limits.check(CHAT, {"structured_outputs": {"json": {"pattern": pattern}}})
    with pytest.raises(InvalidInput, match="has character classes and repetitions"):
        limits.check(CHAT, {"structured_outputs": {"json": {"pattern": r"\d[.]" * 2_001}}})


def test_each_further_range_of_lengths_counts_as_128_items():
    """xgrammar compiles each of them anew, for a second; the same one once."""
    limits = replace(LIMITS, max_schema_bytes=10_000, max_schema_items=3 * 128 + 5)

    def lengths(*ranges):
        properties = {f"p{i}": {"minLength": n, "maxLength": 9} for i, n in enumerate(ranges)}
        return {"properties": properties, "required": list(properties)}

    limits.check(CHAT, {"structured_outputs": {"json": lengths(1, 2, 3, 4, 1)}})
    with pytest.raises(InvalidInput, match="has more than 389 properties, values"):
        limits.check(CHAT, {"structured_outputs": {"json": lengths(1, 2, 3, 4, 5)}})


def test_optional_properties_of_one_object_are_bounded():
    """The work of xgrammar grows with the square of their number."""
    limits = RequestLimits(
        max_schema_bytes=10**6, max_schema_items=10**6, max_sequences=1, max_sampling_items=1
    )
    properties = {f"p{number}": {"type": "string"} for number in range(257)}
    schema = {"type": "object", "properties": properties, "required": ["p0"]}
    limits.check(CHAT, {"structured_outputs": {"json": schema}})
    del schema["required"]
    with pytest.raises(InvalidInput, match="more than 256 optional properties: name them in"):
        limits.check(CHAT, {"structured_outputs": {"json": schema}})


@pytest.mark.parametrize("name", ["kv_transfer_params", "ec_transfer_params"])
def test_internal_parameters_are_no_vllm_xargs(name):
    """vLLM reads them as objects, and `vllm_xargs` cannot have one."""
    assert error(CHAT, {"vllm_xargs": {name: "a"}}) == (
        f"vllm_xargs must not have {name}: remove it.",
        "vllm_xargs",
    )


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_former_names_of_a_constraint_are_bounded_too(engine):
    """The check sees the engine's own fields, after the translation."""
    parser = RequestParser(("m",), "org/m", ENGINE_FIELDS[engine], limits=LIMITS)
    job = {"prompt": "a", "guided_choice": WORDS}
    with pytest.raises(InvalidInput, match="has more than 20 properties, values and alternatives"):
        parser.parse_job({"id": "j", "input": job})
