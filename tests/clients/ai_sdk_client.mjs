import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";

const { BASE_URL, EMBEDDINGS_BASE_URL, API_KEY, MODEL, EMBEDDINGS_MODEL } = process.env;
const provider = createOpenAICompatible({
  name: "runpod",
  baseURL: BASE_URL,
  apiKey: API_KEY,
  supportsStructuredOutputs: true,
});
const model = provider(MODEL);

// Chat
const { text } = await generateText({ model, prompt: "What is the capital of France?" });
console.log(text);

// Stream
for await (const piece of streamText({ model, prompt: "What is the capital of France?" }).textStream) {
  process.stdout.write(piece);
}
console.log();

// Tools
const weather = {
  model,
  tools: {
    get_weather: tool({
      description: "Get the weather of a city.",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => `18 degrees and clear in ${city}`,
    }),
  },
  stopWhen: isStepCount(5),
  prompt: "What is the weather in Paris?",
};
console.log((await generateText(weather)).text);

for await (const piece of streamText(weather).textStream) {
  process.stdout.write(piece);
}
console.log();

// Structured output
const { output } = await generateText({
  model,
  output: Output.object({
    schema: z.object({ city: z.enum(["Paris", "Rome"]), sky: z.enum(["clear", "cloudy"]) }),
  }),
  prompt: "It is clear in Paris.",
});
console.log(output);

// Embeddings
const embedder = createOpenAICompatible({
  name: "runpod-embeddings",
  baseURL: EMBEDDINGS_BASE_URL,
  apiKey: API_KEY,
});
const { embeddings } = await embedMany({
  model: embedder.embeddingModel(EMBEDDINGS_MODEL),
  values: ["Paris is a city.", "Bread is baked."],
});
console.log(JSON.stringify(embeddings));
