"""The text of a flush that is decoded at once is that of vLLM, which decodes token by token."""

import random
from types import SimpleNamespace

import pytest

from tests.support.environment import MODELS, NAME

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported

TEXT = "Ein Wörterbuch, 你好世界, 😀😀 and 👩‍👩‍👧. "
VOCABULARY = 49152


@pytest.fixture(scope="module")
def detokenizer():
    """Return a function that makes vLLM's detokenizer for a request."""
    from transformers import AutoTokenizer
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODELS / f"{NAME}-bf16")

    def make(**params):
        request = SimpleNamespace(
            request_id="a", prompt_token_ids=[1, 2], sampling_params=SamplingParams(**params)
        )
        return FastIncrementalDetokenizer(tokenizer, request)

    make.ids = tokenizer.encode(TEXT)
    return make


def answers(ids):
    """Return answers of real text, and of tokens in which characters are broken."""
    drawn = random.Random(0)
    yield ids * 4
    for _ in range(50):
        yield [drawn.choice([drawn.choice(ids), drawn.randrange(VOCABULARY)]) for _ in range(60)]
    for cut in range(1, len(ids)):  # the answer ends within a character
        yield ids[:cut]


@pytest.mark.parametrize("flush", [1, 2, 7, 100], ids=lambda tokens: f"{tokens} tokens")
@pytest.mark.parametrize("stops", [False, True], ids=["length", "stop token"])
def test_each_flush_has_the_text_of_its_tokens(detokenizer, flush, stops):
    from handler.engine.vllm.merged_detokenizer import MergedDetokenizer

    for ids in answers(detokenizer.ids):
        own, merged = detokenizer(), MergedDetokenizer(detokenizer())
        assert MergedDetokenizer.can_merge(detokenizer())
        for at in range(0, len(ids), flush):
            taken = ids[at : at + flush]
            for position, token in enumerate(taken, at + 1):
                ended = stops and position == len(ids)
                assert own.update([token], ended) is merged.update([token], ended) is None
                assert own.num_output_tokens() == merged.num_output_tokens() == position
            finished = at + flush >= len(ids)
            text = own.get_next_output_text(finished, True)
            assert merged.get_next_output_text(finished, True) == text
        assert own.output_token_ids == merged.output_token_ids == ids


@pytest.mark.parametrize(
    "params",
    [
        {"stop": ["."]},
        {"skip_special_tokens": False, "spaces_between_special_tokens": False},
    ],
    ids=["stop string", "special tokens"],
)
def test_text_that_must_be_seen_token_by_token_is_not_merged(detokenizer, params):
    from handler.engine.vllm.merged_detokenizer import MergedDetokenizer

    assert not MergedDetokenizer.can_merge(detokenizer(**params))
