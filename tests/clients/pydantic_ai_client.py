import os
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, Embedder, NativeOutput
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"])
model = OpenAIChatModel(os.environ["MODEL"], provider=provider)

# Chat
agent = Agent(model)
print(agent.run_sync("What is the capital of France?").output)

# Stream
for delta in agent.run_stream_sync("What is the capital of France?").stream_text(delta=True):
    print(delta, end="", flush=True)
print()

# Tools
agent = Agent(model)


@agent.tool_plain
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"18 degrees and clear in {city}"


print(agent.run_sync("What is the weather in Paris?").output)

for delta in agent.run_stream_sync("What is the weather in Paris?").stream_text(delta=True):
    print(delta, end="", flush=True)
print()


# Structured output, as a tool call and as response_format
class Weather(BaseModel):
    city: Literal["Paris", "Rome"]
    sky: Literal["clear", "cloudy"]


print(repr(Agent(model, output_type=Weather).run_sync("It is clear in Paris.").output))
print(
    repr(Agent(model, output_type=NativeOutput(Weather)).run_sync("It is clear in Paris.").output)
)

# Embeddings
provider = OpenAIProvider(base_url=os.environ["EMBEDDINGS_BASE_URL"], api_key=os.environ["API_KEY"])
embedder = Embedder(OpenAIEmbeddingModel(os.environ["EMBEDDINGS_MODEL"], provider=provider))
print(embedder.embed_documents_sync(["Paris is a city.", "Bread is baked."]).embeddings)
