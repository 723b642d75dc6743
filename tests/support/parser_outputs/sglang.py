"""Outputs of models in the formats that SGLang's parsers of tool calls and of reasoning read.

`reasoning` and `answer` write what stands before the calls of `sglang_calls`, or in their place.
"""

import re

TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}
    for name, parameters in {
        "find_city": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "limit": {"type": "integer"}},
        },
        "plan_trip": {
            "type": "object",
            "properties": {
                "stops": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                    },
                },
                "options": {
                    "type": "object",
                    "properties": {"by": {"type": "array", "items": {"type": "string"}}},
                },
            },
        },
    }.items()
]
PARIS = ("find_city", {"name": "Paris", "limit": 3})
ROME = ("find_city", {"name": "Rome"})
TOKYO = ("find_city", {"name": "Zürich 東京 🗼"})
TRIP = (
    "plan_trip",
    {"stops": [{"city": "Rome", "days": 2}, {"city": "Bari"}], "options": {"by": ["train"]}},
)
CALLS = {
    "one call": [PARIS],
    "two calls": [PARIS, ROME],
    "two tools": [TRIP, TOKYO],
    "nested arguments": [TRIP],
    "unicode": [TOKYO],
}
TEXT = "It is Zürich 東京 🗼, I look it up."
REASONING = "The user asks for 東京.\n\nSo I look: 🗼 < 3."
# What a text before the calls has around it, where that is more than a blank line.
TEXT_BEFORE_CALLS = {
    "gpt-oss": ("<|channel|>commentary<|message|>", "<|end|><|start|>assistant"),
    "muse": (" to=user<|message|>", "<|eom|><|start|>assistant"),
}
THINK = ("<think>", "</think>\n\n")
# Without it a plain answer has no call.
OPENING = {
    "gpt-oss": "<|channel|>analysis<|message|>So I look.<|end|><|start|>assistant",
}
HARMONY = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant")
AROUND_REASONING = {
    "apertus2509": ("<|inner_prefix|>", "<|inner_suffix|>"),
    "beam": HARMONY,
    "cohere_command4": ("", "<|END_THINKING|>"),  # the prompt ends with the opening mark
    "gemma4": ("<|channel>thought\n", "<channel|>"),
    "gpt-oss": HARMONY,
    "inkling": ("<|message_model|><|content_thinking|>", "<|end_message|>"),
    "k2_horizon": ("<ifm|think>", "</ifm|think>"),
    "kimi": ("◁think▷", "◁/think▷"),
    "kimi_k3": ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    "minimax-m3": ("<mm:think>", "</mm:think>"),
    "mistral": ("[THINK]", "[/THINK]"),
    "muse": (" to=self<|message|>", "<|eom|><|start|>assistant"),
    "response_template": HARMONY,
}
AROUND_ANSWER = {
    "beam": ("<|channel|>final<|message|>", "<|return|>"),
    "cohere_command4": ("<|START_TEXT|>", "<|END_TEXT|>"),
    "gpt-oss": ("<|channel|>final<|message|>", "<|return|>"),
    "inkling": (
        "<|message_model|><|content_text|>",
        "<|end_message|><|content_model_end_sampling|>",
    ),
    "kimi_k3": (
        "<|open|>response<|sep|>",
        "<|close|>response<|sep|><|close|>message<|sep|>",
    ),
    "muse": (" to=user<|message|>", "<|eot|>"),
    "response_template": ("<|channel|>final<|message|>", "<|return|>"),
}


def text_before_calls(parser, text):
    before, after = TEXT_BEFORE_CALLS.get(parser, ("", "\n\n"))
    return before + text + after


def reasoning(parser, text=REASONING):
    before, after = AROUND_REASONING.get(parser, THINK)
    return before + text + after


def answer(parser, text=TEXT):
    before, after = AROUND_ANSWER.get(parser, ("", ""))
    return before + text + after


# What a model has as one token: marks, and those of which a mark is made.
MARK = re.compile(
    r"｜DSML｜|(?!</?｜DSML)</?[\w|:｜▁]+\|?>|<\|\"\|>|<\|\w+\|>|\[/?[A-Z_]+\]|◁/?think▷|\]<\]minimax\[>\["
)
# Those that DeepSeek's own parser looks for in a vocabulary.
DEEPSEEK_MARKS = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜System｜>",
    "<｜Assistant｜>",
    "<｜deepseek_image｜>",
]


def marks_in(texts):
    return sorted({mark for text in texts for mark in MARK.findall(text)} | set(DEEPSEEK_MARKS))
