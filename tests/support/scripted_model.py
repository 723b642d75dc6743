"""A checkpoint that says what it is told to, so that every turn of a client has one right outcome.

No model as small as the demo calls tools by itself. This one is a Llama that the real engine loads:
each token of its texts leads to the next one with all the probability that there is, and its chat
template chooses the text. A call or a result that did not arrive as the client sent it is an error
of the template.
"""

import json
from itertools import pairwise
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.support.checkpoints import tiny_llama

# A token is in one place only, for it alone says what follows. The first is the prompt's last.
CAPITAL = "<issue_start>|The| capital| of| France| is| Paris|.".split("|")
CALL = (
    '<jupyter_code>|<tool_call>|\n|{"|name|":"|get|_|weather|","|arguments|":'
    '| {"|city|"|:"|Paris|"}|}|</tool_call>'
).split("|")
WEATHER = "<jupyter_output>|1|8| degrees| and| a| clear| sky|!".split("|")
TEXTS = CAPITAL, CALL, WEATHER
END = "<|im_end|>"
ADDED_TOKENS = ["<tool_call>", "</tool_call>"]  # as models that call tools have
TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- set last = messages[-1] %}
{{- '<|im_start|>assistant\\n' }}
{%- if last.role == 'tool' %}
    {%- set call = messages[-2].tool_calls[0].function %}
    {%- if call.name != 'get_weather' or call.arguments.city != 'Paris' %}
        {{- raise_exception('another call: ' ~ call) }}
    {%- elif '18 degrees' not in last.content %}
        {{- raise_exception('another result: ' ~ last.content) }}
    {%- endif %}
    {{- '<jupyter_output>' }}
{%- elif tools %}
    {{- '<jupyter_code>' }}
{%- else %}
    {{- '<issue_start>' }}
{%- endif %}"""
# Where a grammar leaves a choice that no text makes: these before all other tokens, as weights.
PREFERRED = dict.fromkeys(["Paris", "clear", "}", "]", "</tool_call>", END], 4.0) | dict.fromkeys(
    '{":,', 3.0
)
CERTAIN = 8.0
VOCABULARY = 49152
HIDDEN_SIZE = 128  # a dimension for each token of the texts, and one for the preferred


def scripted_model(folder: Path) -> Path:
    """Write the checkpoint."""
    tiny_llama(folder, hidden_size=HIDDEN_SIZE, num_hidden_layers=1, vocab_size=VOCABULARY + 128)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    tokens = _add_tokens(folder / "tokenizer.json")
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name, weight in weights.items():
        if "norm" not in name:
            weight.zero_()
    embeddings, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    embeddings[:, 0] = 1
    for token, weight in PREFERRED.items():
        head[tokens[token], 0] = weight
    pairs = [pair for text in TEXTS for pair in pairwise([*text, END])]
    for dimension, (token, following) in enumerate(pairs, start=1):
        embeddings[tokens[token], dimension] = 1
        head[tokens[following], dimension] = CERTAIN
    save_file(weights, file, {"format": "pt"})
    return folder


def _add_tokens(file: Path) -> dict[str, int]:
    """Add `ADDED_TOKENS` to a tokenizer, and return the ids of all tokens, as plain text."""
    tokenizer = json.loads(file.read_text())
    added = tokenizer["added_tokens"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    for token, content in enumerate(ADDED_TOKENS, start=VOCABULARY):
        added.append({"id": token, "content": content, **flags})
    file.write_text(json.dumps(tokenizer))
    plain = tokenizer["model"]["vocab"] | {each["content"]: each["id"] for each in added}
    return {text.replace("Ġ", " ").replace("Ċ", "\n"): token for text, token in plain.items()}
