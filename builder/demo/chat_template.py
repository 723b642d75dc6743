"""A chat template that also knows tools, made from one that does not.

A chat without tools renders with the original template, word for word. One with tools renders
as NousResearch's Hermes models and Qwen2.5 write it, which is what the engines' `hermes` tool
parser reads back: signatures in <tools> in the system turn, calls in <tool_call>, results in
<tool_response> in a user turn.

SmolLM2-135M-Instruct was not trained on this: it needs structured output to call a tool well.
"""

# The condition looks at the messages as well: a chat may carry calls and results made earlier
# and offer no tools now, and the original template cannot render those.
_TEMPLATE = r"""{%- set calls = messages | selectattr('tool_calls') | list %}
{%- set results = messages | selectattr('role', 'equalto', 'tool') | list %}
{%- if not tools and not calls and not results -%}
@ORIGINAL@
{%- else -%}
@WITH_TOOLS@
{%- endif -%}
"""

_WITH_TOOLS = r"""    {%- set system_first = messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' }}
    {{- messages[0].content if system_first else '@DEFAULT_SYSTEM@' }}
    {%- if tools %}
        {{- '\n\n# Tools\n\nYou may call one or more functions to assist with the user query.' }}
        {{- '\n\nYou are provided with function signatures within <tools></tools> XML tags:' }}
        {{- '\n<tools>' }}
        {%- for tool in tools %}
            {{- '\n' + (tool | tojson) }}
        {%- endfor %}
        {{- '\n</tools>\n\nFor each function call, return a json object with function name ' }}
        {{- 'and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n' }}
        {{- '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>' }}
    {%- endif %}
    {{- '<|im_end|>\n' }}
    {%- for message in (messages[1:] if system_first else messages) %}
        {%- if message.role == 'tool' %}
            {%- if loop.first or loop.previtem.role != 'tool' %}
                {{- '<|im_start|>user' }}
            {%- endif %}
            {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
            {%- if loop.last or loop.nextitem.role != 'tool' %}
                {{- '<|im_end|>\n' }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + (message.content or '') }}
            {%- for tool_call in message.tool_calls or [] %}
                {%- set call = tool_call.function or tool_call %}
                {%- set given = call.arguments %}
                {{- '\n' if message.content or not loop.first }}
                {{- '<tool_call>\n{"name": ' + (call.name | tojson) + ', "arguments": ' }}
                {{- given if given is string else given | tojson }}
                {{- '}\n</tool_call>' }}
            {%- endfor %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endfor %}
    {%- if add_generation_prompt %}
        {{- '<|im_start|>assistant\n' }}
    {%- endif %}"""


def with_tools(original: str, default_system: str) -> str:
    """`original` extended; `default_system` is what it says when a chat brings no system message.

    The original may already know tools: then it is returned as it is.
    """
    if "tools" in original:
        return original
    tools = _WITH_TOOLS.replace("@DEFAULT_SYSTEM@", default_system)
    return _TEMPLATE.replace("@ORIGINAL@", original).replace("@WITH_TOOLS@", tools)
