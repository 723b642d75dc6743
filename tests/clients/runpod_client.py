import os

import runpod

runpod.api_key = os.environ["API_KEY"]
endpoint = runpod.Endpoint(os.environ["ENDPOINT_ID"])
question = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}

# One answer: the output is the list of what the worker yielded.
[answer] = endpoint.run_sync(question, timeout=60)
print(answer["choices"][0]["message"]["content"])

# The same in two steps
job = endpoint.run(question)
[answer] = job.output(timeout=60)
print(job.status(), answer["choices"][0]["message"]["content"])

# A stream
for chunk in endpoint.run(question | {"stream": True}).stream():
    for choice in chunk["choices"]:
        print(choice["delta"].get("content") or "", end="", flush=True)
print()

# Every other route
[models] = endpoint.run_sync({"route": "models"})
print([model["id"] for model in models["data"]])
print(endpoint.health()["workers"]["idle"])
