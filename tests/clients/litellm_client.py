import json
import os
from typing import Literal

import litellm
from pydantic import BaseModel

litellm.suppress_debug_info = True  # it prints a list of its providers for a name that it has not
endpoint = {"api_base": os.environ["BASE_URL"], "api_key": os.environ["API_KEY"]}
model = f"hosted_vllm/{os.environ['MODEL']}"  # openai/… works as well
question = [{"role": "user", "content": "What is the capital of France?"}]

# Chat
answer = litellm.completion(model=model, messages=question, **endpoint)
print(answer.choices[0].message.content)

# Stream
for chunk in litellm.completion(model=model, messages=question, stream=True, **endpoint):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()


# Tools
def get_weather(city: str) -> str:
    return f"18 degrees and clear in {city}"


tool = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
messages = [{"role": "user", "content": "What is the weather in Paris?"}]
asked = {"model": model, "tools": [tool], **endpoint}
message = litellm.completion(messages=messages, **asked).choices[0].message
messages.append(message)
for call in message.tool_calls:
    result = get_weather(**json.loads(call.function.arguments))
    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
print(litellm.completion(messages=messages, **asked).choices[0].message.content)

chunks = list(litellm.completion(messages=messages[:1], stream=True, **asked))
[call] = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
print(call.function.name, json.loads(call.function.arguments))


# Structured output
class Weather(BaseModel):
    city: Literal["Paris", "Rome"]
    sky: Literal["clear", "cloudy"]


question = [{"role": "user", "content": "It is clear in Paris."}]
answer = litellm.completion(model=model, messages=question, response_format=Weather, **endpoint)
print(repr(Weather.model_validate_json(answer.choices[0].message.content)))

# Embeddings
answer = litellm.embedding(
    model=f"hosted_vllm/{os.environ['EMBEDDINGS_MODEL']}",
    input=["Paris is a city.", "Bread is baked."],
    api_base=os.environ["EMBEDDINGS_BASE_URL"],
    api_key=os.environ["API_KEY"],
)
print([item["embedding"] for item in answer.data])
