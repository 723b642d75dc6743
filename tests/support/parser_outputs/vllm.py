"""Outputs of models in the formats that vLLM's parsers of tool calls and of reasoning read.

`TOOL_CALL_FORMATS` and `REASONING_FORMATS` have a function for each parser, which writes what a
model of that format writes. `markers` are what their tokenizers have as one token.
"""

import json
import re

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_city",
            "description": "Find a city",
            "parameters": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "limit": {"type": "integer"}},
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "plan_trip",
            "description": "Plan a trip",
            "parameters": {
                "type": "object",
                "properties": {"stops": {"type": "array"}, "options": {"type": "object"}},
            },
        },
    },
]
CITY = ("find_city", {"name": "Paris", "limit": 3})
SECOND = ("find_city", {"name": "Rome", "limit": 12})
TRIP = (
    "plan_trip",
    {"stops": [{"city": "Rome", "days": 2}, {"city": "Bari"}], "options": {"by": ["train"]}},
)
UNICODE = ("find_city", {"name": "Zürich 東京 🗼", "limit": 1})
CALLS = {
    "one call": [CITY],
    "two calls": [CITY, SECOND],
    "nested": [TRIP],
    "unicode": [UNICODE],
    "nested, then unicode": [TRIP, UNICODE],
}
REASONING = "The user asks for 2 < 3 cities.\nSo I look {them} up: 東京."
TEXT = "Paris has 2 < 3 rivers, [I think] {so}: ça va? 日本語 🎉"


def dumps(value):
    return json.dumps(value, ensure_ascii=False)


def raw(value):
    """An argument as the formats with tags have it: text as it is, all else as JSON."""
    return value if isinstance(value, str) else dumps(value)


def joined(call, start="", between="", end=""):
    """A format of which `call` writes one call."""
    return lambda calls: start + between.join(call(*each) for each in calls) + end


def json_call(arguments="arguments", start="", end=""):
    return lambda name, values: start + dumps({"name": name, arguments: values}) + end


def tags(start, argument, end):
    """A call with tags around each argument; in the texts are {name}, {key}, {value}, {text}."""

    def write(name, arguments):
        texts = (
            argument.format(key=key, value=raw(value), text=dumps(isinstance(value, str)))
            for key, value in arguments.items()
        )
        return start.format(name=name) + "".join(texts) + end

    return write


def kimi_k2(calls):
    written = (
        f"<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>"
        f"{dumps(arguments)}<|tool_call_end|>"
        for number, (name, arguments) in enumerate(calls)
    )
    return "<|tool_calls_section_begin|>" + "".join(written) + "<|tool_calls_section_end|>"


def kimi_k3(calls):
    def argument(key, value):
        kind = {str: "string", int: "number", list: "array", dict: "object"}[type(value)]
        return (
            f'<|open|>argument key="{key}" type="{kind}"<|sep|>{raw(value)}<|close|>argument<|sep|>'
        )

    written = (
        f'<|open|>call tool="{name}" index="{number}"<|sep|>'
        + "".join(argument(*each) for each in arguments.items())
        + "<|close|>call<|sep|>"
        for number, (name, arguments) in enumerate(calls, 1)
    )
    return "<|open|>tools<|sep|>" + "".join(written) + "<|close|>tools<|sep|>"


def pythonic_call(name, arguments):
    return name + "(" + ", ".join(f"{key}={value!r}" for key, value in arguments.items()) + ")"


def gemma4_value(item):
    if isinstance(item, str):
        return f'<|"|>{item}<|"|>'
    if isinstance(item, list):
        return "[" + ",".join(map(gemma4_value, item)) + "]"
    if isinstance(item, dict):
        return "{" + ",".join(f"{key}:{gemma4_value(one)}" for key, one in item.items()) + "}"
    return dumps(item)


def gemma4_call(name, arguments):
    return f"<|tool_call>call:{name}{gemma4_value(arguments)}<tool_call|>"


def minimax_m3_element(key, value):
    mark = "]<]minimax[>["
    if isinstance(value, list):
        inner = "".join(minimax_m3_element("item", each) for each in value)
    elif isinstance(value, dict):
        inner = "".join(minimax_m3_element(*each) for each in value.items())
    else:
        inner = raw(value)
    return f"{mark}<{key}>{inner}{mark}</{key}>"


def minimax_m3_call(name, arguments):
    mark = "]<]minimax[>["
    inner = "".join(minimax_m3_element(*each) for each in arguments.items())
    return f'{mark}<invoke name="{name}">\n{inner}\n{mark}</invoke>\n'


def deepseek_dsml(space="", wrapper="tool_calls"):
    tag = f"｜DSML｜{space}"
    call = tags(
        f'<{tag}invoke name="{{name}}">\n',
        f'<{tag}parameter name="{{key}}" string="{{text}}">{{value}}</{tag}parameter>\n',
        f"</{tag}invoke>\n",
    )
    return joined(call, f"<{tag}{wrapper}>\n", "", f"</{tag}{wrapper}>")


def deepseek_v3_call(name, arguments):
    return (
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dumps(arguments)}\n```"
        "<｜tool▁call▁end｜>"
    )


def deepseek_v31_call(name, arguments):
    return f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dumps(arguments)}<｜tool▁call▁end｜>"


def plamo3_call(name, arguments):
    return (
        f"<|plamo:begin_tool_request:plamo|><|plamo:begin_tool_name:plamo|>{name}"
        "<|plamo:end_tool_name:plamo|><|plamo:begin_tool_arguments:plamo|>"
        f"<|plamo:constrain|>json<|plamo:msg|>{dumps(arguments)}"
        "<|plamo:end_tool_arguments:plamo|><|plamo:end_tool_request:plamo|>"
    )


def one_by_one(call):
    """A format in which a call is not followed by another."""
    return lambda calls: call(*calls[0])


JSON_TAGS = joined(json_call(start="<tool_call>\n", end="\n</tool_call>"), "", "\n")
LLAMA_JSON = joined(json_call("parameters"), "", "; ")
PYTHONIC = joined(pythonic_call, "[", ", ", "]")
QWEN_XML = joined(
    tags(
        "<tool_call>\n<function={name}>\n",
        "<parameter={key}>\n{value}\n</parameter>\n",
        "</function>\n</tool_call>",
    ),
    "",
    "\n",
)
GLM_XML = joined(
    tags(
        "<tool_call>{name}\n",
        "<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n",
        "</tool_call>",
    )
)
HUNYUAN_XML = tags(
    "<tool_call>{name}<tool_sep>\n",
    "<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n",
    "</tool_call>\n",
)
DEEPSEEK_START, DEEPSEEK_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"

TOOL_CALL_FORMATS = {
    "apertus": joined(
        lambda name, arguments: dumps({name: arguments}),
        "<|tools_prefix|>[",
        ", ",
        "]<|tools_suffix|>",
    ),
    "deepseek_v3": joined(deepseek_v3_call, DEEPSEEK_START, "\n", DEEPSEEK_END),
    "deepseek_v31": joined(deepseek_v31_call, DEEPSEEK_START, "", DEEPSEEK_END),
    "deepseek_v32": deepseek_dsml(wrapper="function_calls"),
    "deepseek_v4": deepseek_dsml(),
    "deepseek_v41": deepseek_dsml(" ", "calls"),
    "dots": joined(
        tags(
            '<invoke name="{name}">\n',
            '<parameter name="{key}">{value}</parameter>\n',
            "</invoke>\n",
        ),
        "<dots_function_call>\n",
        "",
        "</dots_function_call>",
    ),
    "ernie45": joined(json_call(start="<tool_call>\n", end="\n</tool_call>\n")),
    "functiongemma": joined(
        lambda name, arguments: (
            f"<start_function_call>call:{name}{{"
            + ",".join(f"{key}:<escape>{raw(value)}<escape>" for key, value in arguments.items())
            + "}<end_function_call>"
        )
    ),
    "gemma4": joined(gemma4_call),
    "gigachat3": one_by_one(json_call(start="<|function_call|>")),
    "glm45": GLM_XML,
    "glm47": joined(
        tags(
            "<tool_call>{name}",
            "<arg_key>{key}</arg_key><arg_value>{value}</arg_value>",
            "</tool_call>",
        )
    ),
    "granite": joined(json_call(), "<|tool_call|>[", ", ", "]"),
    "granite-20b-fc": joined(json_call(start="<function_call> ")),
    "granite4": joined(json_call(start="<tool_call>", end="</tool_call>"), "", "\n"),
    "hermes": JSON_TAGS,
    "hunyuan_a13b": joined(json_call(), "<tool_calls>[", ", ", "]</tool_calls>"),
    "hy_v3": joined(HUNYUAN_XML, "<tool_calls>\n", "", "</tool_calls>"),
    "hy_v4": joined(
        tags(
            "<tool_call>{name}",
            "<arg_key>{key}</arg_key><arg_value>{value}</arg_value>",
            "</tool_call>",
        ),
        "<tool_calls>",
        "",
        "</tool_calls>",
    ),
    "inkling": joined(
        json_call("args", "<|message_model|><|content_invoke_tool_json|>", "<|end_message|>")
    ),
    "internlm": one_by_one(
        json_call("parameters", "<|action_start|><|plugin|>\n", "<|action_end|>")
    ),
    "jamba": joined(json_call(), "<tool_calls>[\n    ", ",\n    ", "\n]</tool_calls>"),
    "k2_horizon": joined(
        tags(
            "<ifm|tool_call>{name}\n",
            "<ifm|arg_key>{key}</ifm|arg_key>\n<ifm|arg_value>{value}</ifm|arg_value>\n",
            "</ifm|tool_call>\n",
        ),
        "<ifm|tool_calls>\n",
        "",
        "</ifm|tool_calls>",
    ),
    "kimi_k2": kimi_k2,
    "kimi_k3": kimi_k3,
    "lfm2": joined(pythonic_call, "<|tool_call_start|>[", ", ", "]<|tool_call_end|>"),
    "ling3": GLM_XML,
    "llama3_json": LLAMA_JSON,
    "llama4_json": LLAMA_JSON,
    "llama4_pythonic": PYTHONIC,
    "longcat": joined(
        json_call(start="<longcat_tool_call>\n", end="\n</longcat_tool_call>"), "", "\n"
    ),
    "mimo": joined(
        tags(
            "<tool_call>\n<function={name}>\n",
            "<parameter={key}>{value}</parameter>\n",
            "</function>\n</tool_call>",
        ),
        "",
        "\n",
    ),
    "minicpm5": joined(
        tags('<function name="{name}">', '<param name="{key}">{value}</param>', "</function>")
    ),
    "minimax_m2": joined(
        tags(
            '<invoke name="{name}">\n',
            '<parameter name="{key}">{value}</parameter>\n',
            "</invoke>\n",
        ),
        "<minimax:tool_call>\n",
        "",
        "</minimax:tool_call>",
    ),
    "minimax_m3": joined(
        minimax_m3_call, "]<]minimax[>[<tool_call>\n", "", "]<]minimax[>[</tool_call>"
    ),
    "mistral": joined(lambda name, arguments: f"[TOOL_CALLS]{name}[ARGS]{dumps(arguments)}"),
    "muse_glimmer": joined(
        tags(
            "<|start|>assistant to={name}<|message|><atem:function_calls>\n"
            '<atem:invoke name="{name}">\n',
            '<atem:parameter name="{key}">{value}</atem:parameter>\n',
            "</atem:invoke>\n</atem:function_calls>",
        ),
        "",
        "<|eom|>",
        "<|eot|>",
    ),
    "olmo3": joined(pythonic_call, "<function_calls>", "\n", "</function_calls>"),
    "phi4_mini_json": joined(json_call(), "functools[", ", ", "]"),
    "plamo3": joined(
        plamo3_call,
        "<|plamo:begin_tool_requests:plamo|>",
        "",
        "<|plamo:end_tool_requests:plamo|>",
    ),
    "poolside_v1": GLM_XML,
    "pythonic": PYTHONIC,
    "qwen3_coder": QWEN_XML,
    "qwen3_json": JSON_TAGS,
    "qwen3_xml": QWEN_XML,
    "seed_oss": lambda calls: QWEN_XML(calls).replace("tool_call>", "seed:tool_call>"),
    "step3": joined(
        tags(
            '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="{name}">',
            '<steptml:parameter name="{key}">{value}</steptml:parameter>',
            "</steptml:invoke><｜tool_call_end｜>",
        ),
        "<｜tool_calls_begin｜>",
        "",
        "<｜tool_calls_end｜>",
    ),
    "step3p5": QWEN_XML,
    "xlam": joined(json_call(), "[", ", ", "]"),
}


def between(start, end):
    return lambda reasoning, rest: start + reasoning + end + rest


THINK = between("<think>\n", "\n</think>\n\n")
REASONING_FORMATS = {
    "deepseek_r1": THINK,
    "deepseek_v3": THINK,
    "deepseek_v4": THINK,
    "deepseek_v41": THINK,
    "ernie45": between("", "\n</think>\n\n"),
    "gemma4": between("<|channel>thought\n", "<channel|>"),
    "glm45": THINK,
    "glm47": THINK,
    "granite": between("Here is my thought process: ", " Here is my response:"),
    "granite_thinking_parser": THINK,
    "holo2": THINK,
    "hunyuan_a13b": between("<think>\n", "\n</think>\n<answer>\n"),
    "hy_v3": between("<think>", "</think>"),
    "hy_v4": between("<think>", "</think>"),
    "inkling": lambda reasoning, rest: (
        f"<|message_model|><|content_thinking|>{reasoning}<|end_message|>"
        + (rest if rest.startswith("<|message") else f"<|message_model|><|content_text|>{rest}")
        + ("" if rest.endswith("<|end_message|>") else "<|end_message|>")
    ),
    "k2_horizon": between("<ifm|think>\n", "\n</ifm|think>\n"),
    "kimi_k2": between("<think>", "</think>"),
    "kimi_k3": lambda reasoning, rest: (
        f"<|open|>think<|sep|>{reasoning}<|close|>think<|sep|>"
        + (
            rest
            if rest.startswith("<|open|>")
            else f"<|open|>response<|sep|>{rest}<|close|>response<|sep|>"
        )
    ),
    "ling3": THINK,
    "mimo": between("<think>", "</think>"),
    "minicpmv": THINK,
    "minimax_m2": THINK,
    "minimax_m2_append_think": between("", "\n</think>\n\n"),
    "minimax_m3": between("<mm:think>", "</mm:think>"),
    "mistral": between("[THINK]", "[/THINK]"),
    "muse_glimmer": lambda reasoning, rest: (
        f" to=self<|message|>{reasoning}<|eom|>"
        + (rest if rest.startswith("<|start|>") else f"<|start|>assistant to=user<|message|>{rest}")
    ),
    "nemotron_v3": THINK,
    "olmo3": between("<think>", "</think>"),
    "plamo3": between("<|plamo:begin_think:plamo|>\n", "<|plamo:end_think:plamo|>\n"),
    "poolside_v1": THINK,
    "qwen3": THINK,
    "seed_oss": between("<seed:think>\n", "\n</seed:think>\n\n"),
    "step3": between("", "</think>"),
    "step3p5": between("", "\n</think>\n"),
}

# The tool parser of a model whose reasoning parser has another name.
TOOL_PARSERS = {
    "deepseek_r1": "deepseek_v3",
    "granite_thinking_parser": "qwen3_coder",
    "holo2": "hermes",
    "minicpmv": "qwen3_coder",
    "minimax_m2_append_think": "minimax_m2",
    "nemotron_v3": "qwen3_coder",
    "qwen3": "hermes",
}

_TAG = re.compile(
    r"</?[A-Za-z_:|]+>|<｜[^<>｜ ]+｜>|<\|[^<> ]+?\|>|\[/?[A-Z_]+\]|<\|\w+>|<\w+\|>|｜DSML｜"
)
_TEXT_TAG = re.compile(
    r"</?(function|parameter|param|invoke|item|city|days|by|name|limit|stops|options)>"
)


def markers():
    """Return what a tokenizer has as one token: the tags of all formats, but for those in XML."""
    texts = [write([TRIP, CITY]) for write in TOOL_CALL_FORMATS.values()]
    texts += [write("", "") for write in REASONING_FORMATS.values()]
    texts += ["<|python_tag|>", "<assistant>", "</answer>", "<response>", "</response>", "<0x0A>"]
    texts += ["[ARGS]", "<|im_end|>"]
    found = {token for text in texts for token in _TAG.findall(text)}
    return sorted(token for token in found if not _TEXT_TAG.fullmatch(token))


def is_special(token):
    """Whether a tokenizer leaves a token out of the text unless it is told to keep it."""
    return token.startswith(("<|", "<｜", "[")) and "▁" not in token
