import asyncio
import os
from typing import Literal

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)  # traces would go to OpenAI
client = AsyncOpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["API_KEY"])


@function_tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"18 degrees and clear in {city}"


class Weather(BaseModel):
    city: Literal["Paris", "Rome"]
    sky: Literal["clear", "cloudy"]


async def print_stream(agent: Agent, question: str) -> None:
    async for event in Runner.run_streamed(agent, question).stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            print(event.data.delta, end="", flush=True)
    print()


async def main() -> None:
    for model_class in (OpenAIChatCompletionsModel, OpenAIResponsesModel):  # either
        model = model_class(model=os.environ["MODEL"], openai_client=client)

        # Chat
        agent = Agent(name="Assistant", model=model)
        print((await Runner.run(agent, "What is the capital of France?")).final_output)

        # Stream
        await print_stream(agent, "What is the capital of France?")

        # Tools
        agent = Agent(name="Assistant", model=model, tools=[get_weather])
        print((await Runner.run(agent, "What is the weather in Paris?")).final_output)
        await print_stream(agent, "What is the weather in Paris?")

        # Structured output
        agent = Agent(name="Assistant", model=model, output_type=Weather)
        print(repr((await Runner.run(agent, "It is clear in Paris.")).final_output))


asyncio.run(main())
