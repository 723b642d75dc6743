"""LoRA adapters on both engines."""

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_a_request_chooses_an_adapter_by_its_name(client, endpoint, paris):
    def ask(model):
        answer = client.chat.completions.create(
            model=model, messages=QUESTION, temperature=0, max_tokens=12
        )
        assert answer.model == model
        return answer.choices[0].message.content

    assert ask("org/other") != paris
    assert ask(endpoint.model) == paris
    assert ask("org/other") == ask("org/other")


def test_adapters_are_listed_after_their_model_without_their_paths(client, endpoint):
    listed = client.models.list().data
    assert [(card.id, card.root, card.parent) for card in listed] == [
        (endpoint.model, endpoint.model, None),
        ("org/other", "org/other", endpoint.model),
    ]


def test_a_native_job_streams_from_an_adapter(endpoint):
    chat = {"messages": QUESTION, "model": "org/other", "ignore_eos": True}
    job = endpoint.run({**chat, "max_tokens": 8, "stream": True})
    assert job.error is None
    assert job.output[-1]["usage"]["completion_tokens"] == 8
