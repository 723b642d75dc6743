import os
from typing import Literal

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

llm = ChatOpenAI(
    base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"], model=os.environ["MODEL"]
)

# Chat
print(llm.invoke("What is the capital of France?").text)

# Stream
for chunk in llm.stream("What is the capital of France?"):
    print(chunk.text, end="", flush=True)
print()


# Tools
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"18 degrees and clear in {city}"


agent = create_agent(llm, tools=[get_weather])
question = {"messages": [{"role": "user", "content": "What is the weather in Paris?"}]}
print(agent.invoke(question)["messages"][-1].text)

for chunk, _ in agent.stream(question, stream_mode="messages"):
    if chunk.type == "AIMessageChunk":
        print(chunk.text, end="", flush=True)
print()


# Structured output
class Weather(BaseModel):
    city: Literal["Paris", "Rome"]
    sky: Literal["clear", "cloudy"]


print(llm.with_structured_output(Weather).invoke("It is clear in Paris."))

# Embeddings: without the last argument, texts are sent as the tokens of OpenAI's own models.
embeddings = OpenAIEmbeddings(
    base_url=os.environ["EMBEDDINGS_BASE_URL"],
    api_key=os.environ["API_KEY"],
    model=os.environ["EMBEDDINGS_MODEL"],
    check_embedding_ctx_length=False,
)
print(embeddings.embed_documents(["Paris is a city.", "Bread is baked."]))
