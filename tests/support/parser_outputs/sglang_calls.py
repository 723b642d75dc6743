"""Tool calls as the models write them that SGLang has parsers for.

`TOOL_CALL_FORMATS` has a function for each parser, which writes a list of calls.
"""

import json


def dumps(value):
    return json.dumps(value, ensure_ascii=False)


def raw(value):
    """An argument as the formats with tags have it: text as it is, all else as JSON."""
    return value if isinstance(value, str) else dumps(value)


def joined(call, start="", between="", end=""):
    """A format of which `call` writes a call."""
    return lambda calls: start + between.join(call(*each) for each in calls) + end


def json_object(arguments="arguments", name="name"):
    return lambda called, values: dumps({name: called, arguments: values})


def tagged(call, opened, closed):
    return lambda *each: opened + call(*each) + closed


def with_arguments(start, argument, end):
    """A call with tags around each argument; in the texts are {name}, and {key} and {value}."""

    def write(name, arguments):
        texts = (argument.format(key=key, value=raw(value)) for key, value in arguments.items())
        return start.format(name=name) + "".join(texts) + end

    return write


def with_typed_arguments(start, argument, end):
    """The same, in which {text} says whether the argument is a text."""

    def write(name, arguments):
        texts = (
            argument.format(key=key, value=raw(value), text=str(isinstance(value, str)).lower())
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
        kind = "string" if isinstance(value, str) else type(value).__name__
        kind = {"int": "number", "list": "array", "dict": "object"}.get(kind, kind)
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


def pythonic(calls):
    def call(name, arguments):
        return name + "(" + ", ".join(f"{key}={value!r}" for key, value in arguments.items()) + ")"

    return "[" + ", ".join(call(*each) for each in calls) + "]"


def gemma4(calls):
    def value(item):
        if isinstance(item, str):
            return f'<|"|>{item}<|"|>'
        if isinstance(item, list):
            return "[" + ",".join(map(value, item)) + "]"
        if isinstance(item, dict):
            return "{" + ",".join(f"{key}:{value(one)}" for key, one in item.items()) + "}"
        return dumps(item)

    return "".join(
        f"<|tool_call>call:{name}{value(arguments)}<tool_call|>" for name, arguments in calls
    )


def minimax_m3(calls):
    mark = "]<]minimax[>["

    def element(key, value):
        if isinstance(value, list):
            value = "".join(element("item", item) for item in value)
        elif isinstance(value, dict):
            value = "".join(element(*each) for each in value.items())
        return f"{mark}<{key}>{value}{mark}</{key}>"

    written = (
        f'{mark}<invoke name="{name}">'
        + "".join(element(*each) for each in arguments.items())
        + f"{mark}</invoke>"
        for name, arguments in calls
    )
    return f"{mark}<tool_call>" + "".join(written) + f"{mark}</tool_call>"


GLM = with_arguments(
    "<tool_call>{name}\n",
    "<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n",
    "</tool_call>",
)
QWEN = tagged(json_object(), "<tool_call>\n", "\n</tool_call>")
QWEN_CODER = with_arguments(
    "<tool_call>\n<function={name}>\n",
    "<parameter={key}>\n{value}\n</parameter>\n",
    "</function>\n</tool_call>",
)


def dsml(block, space=""):
    """DeepSeek's format, whose later version has a space before each name."""
    mark = "｜DSML｜" + space
    call = with_typed_arguments(
        f'<{mark}invoke name="{{name}}">\n',
        f'<{mark}parameter name="{{key}}" string="{{text}}">{{value}}</{mark}parameter>\n',
        f"</{mark}invoke>\n",
    )
    return joined(call, f"<{mark}{block}>\n", "", f"</{mark}{block}>")


TOOL_CALL_FORMATS = {
    "apertus2509": joined(
        lambda name, arguments: dumps({name: arguments}),
        "<|tools_prefix|>[",
        ", ",
        "]<|tools_suffix|>",
    ),
    "beam": joined(
        with_arguments(
            " to={name}<|channel|>analysis <|constrain|>xml<|message|>",
            '<rfl:parameter name="{key}">\n{value}\n</rfl:parameter>',
            "",
        ),
        "",
        "<|end|><|start|>assistant",
        "<|call|>",
    ),
    "cohere_command4": joined(
        json_object("parameters", "tool_name"),
        "<|START_ACTION|>[\n    ",
        ",\n    ",
        "\n]<|END_ACTION|>",
    ),
    "deepseekv3": joined(
        lambda name, arguments: (
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
            f"{name}\n```json\n{dumps(arguments)}\n```<｜tool▁call▁end｜>"
        ),
        "<｜tool▁calls▁begin｜>",
        "\n",
        "<｜tool▁calls▁end｜>",
    ),
    "deepseekv31": joined(
        lambda name, arguments: (
            f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dumps(arguments)}<｜tool▁call▁end｜>"
        ),
        "<｜tool▁calls▁begin｜>",
        "",
        "<｜tool▁calls▁end｜>",
    ),
    "deepseekv32": dsml("function_calls"),
    "deepseekv4": dsml("tool_calls"),
    "deepseekv41": dsml("calls", " "),
    "dots": joined(
        with_arguments(
            '<invoke name="{name}">\n',
            '<parameter name="{key}">{value}</parameter>\n',
            "</invoke>\n",
        ),
        "<dots_function_call>\n",
        "",
        "</dots_function_call>",
    ),
    "gemma4": gemma4,
    "gigachat3": joined(json_object(), "<|function_call|>", "<|function_call|>"),
    "gigachat35": joined(
        with_typed_arguments(
            '<｜GCML｜invoke name="{name}">\n',
            '<｜GCML｜parameter name="{key}" string="{text}">{value}</｜GCML｜parameter>\n',
            "</｜GCML｜invoke>\n",
        ),
        "<｜GCML｜tool_calls>\n",
        "",
        "</｜GCML｜tool_calls>",
    ),
    "glm45": joined(GLM, between="\n"),
    "glm47": joined(
        with_arguments(
            "<tool_call>{name}",
            "<arg_key>{key}</arg_key><arg_value>{value}</arg_value>",
            "</tool_call>",
        )
    ),
    "gpt-oss": joined(
        lambda name, arguments: (
            f"<|channel|>commentary to=functions.{name} <|constrain|>json"
            f"<|message|>{dumps(arguments)}"
        ),
        "",
        "<|call|><|start|>assistant",
        "<|call|>",
    ),
    "hermes": joined(QWEN, between="\n"),
    "hunyuan": joined(
        with_arguments(
            "<tool_call>{name}<tool_sep>\n",
            "<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n",
            "</tool_call>\n",
        ),
        "<tool_calls>\n",
        "",
        "</tool_calls>",
    ),
    "inkling": joined(
        lambda name, arguments: (
            f"<|message_model|>{name}<|content_invoke_tool_json|>"
            + dumps({"name": name, "args": arguments})
            + "<|end_message|>"
        )
    ),
    "interns1": joined(
        tagged(json_object("parameters"), "<|action_start|> <|plugin|>\n", "<|action_end|>")
    ),
    "iquest_q1": joined(
        with_arguments(
            "<iquest_tool_call>{name}",
            "<arg_key>{key}</arg_key><arg_value>{value}</arg_value>",
            "</iquest_tool_call>",
        )
    ),
    "k2_horizon": joined(
        with_arguments(
            "<ifm|tool_call>{name}\n",
            "<ifm|arg_key>{key}</ifm|arg_key>\n<ifm|arg_value>{value}</ifm|arg_value>\n",
            "</ifm|tool_call>",
        ),
        "<ifm|tool_calls>\n",
        "\n",
        "\n</ifm|tool_calls>",
    ),
    "kimi_k2": kimi_k2,
    "kimi_k3": kimi_k3,
    "lfm2": lambda calls: f"<|tool_call_start|>{pythonic(calls)}<|tool_call_end|>",
    "ling3": joined(GLM, between="\n"),
    "llama3": joined(json_object("parameters"), "<|python_tag|>", "; "),
    "mimo": joined(
        with_arguments(
            "<tool_call>\n<function={name}>\n",
            "<parameter={key}>{value}</parameter>\n",
            "</function>\n</tool_call>",
        ),
        "",
        "\n",
    ),
    "minicpm5": joined(
        with_arguments(
            '<function name="{name}">', '<param name="{key}">{value}</param>', "</function>"
        ),
        "",
        "\n",
    ),
    "minimax-m2": joined(
        with_arguments(
            '<invoke name="{name}">\n',
            '<parameter name="{key}">{value}</parameter>\n',
            "</invoke>\n",
        ),
        "<minimax:tool_call>\n",
        "",
        "</minimax:tool_call>",
    ),
    "minimax-m3": minimax_m3,
    "mistral": joined(json_object(), "[TOOL_CALLS] [", ", ", "]"),
    "muse": joined(
        with_arguments(
            '<atem:invoke name="{name}">\n',
            '<atem:parameter name="{key}">{value}</atem:parameter>\n',
            "</atem:invoke>\n",
        ),
        " to=functions<|message|><atem:function_calls>\n",
        "",
        "</atem:function_calls><|eot|>",
    ),
    "poolside_v1": joined(GLM, between="\n"),
    "pythonic": pythonic,
    "qwen25": joined(QWEN, between="\n"),
    "qwen3_coder": joined(QWEN_CODER, between="\n"),
    "spark25": joined(
        with_arguments(
            "<tool_call>{name}\n",
            "<arg_key>{key}</arg_key><arg_value>{value}</arg_value>\n",
            "</tool_call>",
        ),
        between="\n",
    ),
    "step3": joined(
        tagged(
            with_arguments(
                '<steptml:invoke name="{name}">\n',
                '<steptml:parameter name="{key}">{value}</steptml:parameter>\n',
                "</steptml:invoke>",
            ),
            "<｜tool_call_begin｜>function<｜tool_sep｜>",
            "<｜tool_call_end｜>\n",
        ),
        "<｜tool_calls_begin｜>\n",
        "",
        "<｜tool_calls_end｜>",
    ),
    "trinity": joined(QWEN, between="\n"),
}
TOOL_CALL_FORMATS |= {
    "glm": TOOL_CALL_FORMATS["glm45"],
    "nanbeige": TOOL_CALL_FORMATS["qwen3_coder"],
    "qwen": TOOL_CALL_FORMATS["qwen25"],
    "response_template": TOOL_CALL_FORMATS["beam"],
    "step3p5": TOOL_CALL_FORMATS["qwen3_coder"],
}
