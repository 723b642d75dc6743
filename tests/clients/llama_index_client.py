import asyncio
import os
from typing import Literal

from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

llm = OpenAILike(
    api_base=os.environ["BASE_URL"],
    api_key=os.environ["API_KEY"],
    model=os.environ["MODEL"],
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
    context_window=2048,  # MAX_MODEL_LEN
)
question = [ChatMessage("What is the capital of France?")]

# Chat
print(llm.chat(question).message.content)

# Stream
for chunk in llm.stream_chat(question):
    print(chunk.delta, end="", flush=True)
print()


# Tools
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"18 degrees and clear in {city}"


async def ask_agent() -> None:
    agent = FunctionAgent(llm=llm, tools=[get_weather])
    print(await agent.run("What is the weather in Paris?"))

    streamed = agent.run("What is the weather in Paris?")
    async for event in streamed.stream_events():
        if isinstance(event, AgentStream):
            print(event.delta, end="", flush=True)
    print()


asyncio.run(ask_agent())


# Structured output
class Weather(BaseModel):
    city: Literal["Paris", "Rome"]
    sky: Literal["clear", "cloudy"]


print(repr(llm.as_structured_llm(Weather).complete("It is clear in Paris.").raw))

# Embeddings
embeddings = OpenAILikeEmbedding(
    api_base=os.environ["EMBEDDINGS_BASE_URL"],
    api_key=os.environ["API_KEY"],
    model_name=os.environ["EMBEDDINGS_MODEL"],
)
print(embeddings.get_text_embedding_batch(["Paris is a city.", "Bread is baked."]))
