"""Tokens that wait for a flush: merged in vLLM's output processor, none lost or sent twice."""

import asyncio

import pytest

from handler.engine.pacing import FlushGate, Pacer
from tests.support.environment import MODELS, NAME

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported

TEXT = "The capital of France is Paris, and its river is the Seine. Ça va? 日本語 🎉"


class Stream:
    """One request in vLLM's output processor, whose consumer asks when the test does."""

    def __init__(self, monkeypatch, tokenizer, pacer, n=1, **sampling):
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine import EngineCoreRequest, output_processor
        from vllm.v1.engine.parallel_sampling import ParentRequest

        from handler.engine.vllm.paced_streams import PacedCollector, PacedState

        monkeypatch.setattr(output_processor, "RequestState", PacedState)
        self.processor = output_processor.OutputProcessor(tokenizer, log_stats=False)
        kind = RequestOutputKind.DELTA
        self.collector = PacedCollector(FlushGate(pacer), kind, "r")
        params = SamplingParams(output_kind=kind, n=n, **sampling)

        def request(name):
            return EngineCoreRequest(
                name, [1, 2], None, params, None, 0.0, None, None, None, external_req_id="r"
            )

        parent = ParentRequest(request("r")) if n > 1 else None
        self.names = []
        for index in range(n):
            name = parent.get_child_info(index)[0] if parent else "r"
            self.names.append(name)
            self.processor.add_request(request(name), None, parent, index, self.collector)

    def write(self, *tokens, child=0, reason=None):
        """Put tokens of one engine step; return the requests that vLLM would abort."""
        from vllm.v1.engine import EngineCoreOutput

        output = EngineCoreOutput(self.names[child], list(tokens), finish_reason=reason)
        return self.processor.process_outputs([output]).reqs_to_abort


@pytest.fixture(scope="module")
def tokenizer():
    """The demo model's."""
    from vllm.tokenizers import get_tokenizer

    return get_tokenizer(str(MODELS / f"{NAME}-bf16"))


@pytest.fixture
def pacer():
    """One stream and one flush an hour: only what does not wait comes out."""
    made = Pacer(max_flushes_per_second=1 / 3600)
    made.stream_opened()
    return made


def completion(output):
    [one] = output.outputs
    return one


def test_tokens_are_merged_into_one_output(monkeypatch, tokenizer, pacer):
    """The first is handed out at once; the others together with the last, which does not wait."""
    from vllm.v1.engine import FinishReason

    tokens = tokenizer.encode(TEXT)

    async def run():
        stream = Stream(monkeypatch, tokenizer, pacer)
        stream.write(tokens[0])
        first = stream.collector.get_nowait()
        for token in tokens[1:-1]:
            stream.write(token)
            assert stream.collector.get_nowait() is None
        stream.write(tokens[-1], reason=FinishReason.LENGTH)
        last = await stream.collector.get()
        assert (first.finished, last.finished) == (False, True)
        assert [*completion(first).token_ids, *completion(last).token_ids] == tokens
        assert completion(first).text + completion(last).text == TEXT
        assert stream.collector.get_nowait() is None

    asyncio.run(run())


def test_a_waiting_consumer_is_woken_when_a_flush_is_due(monkeypatch, tokenizer, pacer):
    """Also when no further token comes: a request may be preempted for seconds."""
    tokens = tokenizer.encode(TEXT)[:3]
    pacer.max_flushes_per_second = 50

    async def run():
        stream = Stream(monkeypatch, tokenizer, pacer)
        stream.write(tokens[0])
        await stream.collector.get()
        for token in tokens[1:]:
            stream.write(token)
        later = await asyncio.wait_for(stream.collector.get(), 10)
        assert completion(later).token_ids == tokens[1:]

    asyncio.run(run())


def test_a_stop_string_ends_the_stream_where_it_begins(monkeypatch, tokenizer, pacer):
    """Tokens after it, of the same step, are not sent."""
    tokens = tokenizer.encode(TEXT)

    async def run():
        stream = Stream(monkeypatch, tokenizer, pacer, stop=[" Paris"])
        for token in tokens[:4]:
            assert stream.write(token) == []
        assert stream.write(*tokens[4:]) == ["r"]
        output = await stream.collector.get()
        assert completion(output).text == "The capital of France is"
        assert completion(output).finish_reason == "stop"
        sent = completion(output).token_ids
        assert sent == tokens[: len(sent)]
        assert tokenizer.decode(sent) == "The capital of France is Paris"

    asyncio.run(run())


def test_several_choices_of_one_request_are_kept_apart(monkeypatch, tokenizer, pacer):
    """With n = 2 one may end long before the other."""
    from vllm.v1.engine import FinishReason

    tokens = tokenizer.encode(TEXT)

    async def run():
        stream = Stream(monkeypatch, tokenizer, pacer, n=2)
        stream.write(tokens[0], child=0)
        assert stream.collector.get_nowait().outputs[0].index == 0
        sent = {0: [tokens[0]], 1: []}
        for token in tokens[1:3]:
            stream.write(token, child=0)
        stream.write(*tokens[:2], child=1)
        stream.write(tokens[2], child=1, reason=FinishReason.LENGTH)
        early = await stream.collector.get()
        stream.write(tokens[3], child=0, reason=FinishReason.LENGTH)
        late = await stream.collector.get()
        for output in (early, late):
            for one in output.outputs:
                sent[one.index] += one.token_ids
        assert sent == {0: tokens[:4], 1: tokens[:3]}
        assert (early.finished, late.finished) == (False, True)

    asyncio.run(run())


def test_a_request_that_the_engine_ends_by_itself_fails(monkeypatch, tokenizer, pacer):
    """vLLM would end the answer, cut short, as if it were complete."""
    from vllm.v1.engine import FinishReason
    from vllm.v1.engine.exceptions import EngineDeadError

    async def run():
        stream = Stream(monkeypatch, tokenizer, pacer)
        stream.write(5)
        await stream.collector.get()
        stream.write(6, reason=FinishReason.ABORT)
        with pytest.raises(EngineDeadError, match="engine died; the worker"):
            await stream.collector.get()

    asyncio.run(run())


def test_an_error_does_not_wait(monkeypatch, tokenizer, pacer):
    """The consumer gets it at once."""

    async def run():
        stream = Stream(monkeypatch, tokenizer, pacer)
        stream.write(5)
        await stream.collector.get()
        stream.write(6)
        stream.processor.propagate_error(ValueError("the engine is dead"))
        with pytest.raises(ValueError, match="the engine is dead"):
            await stream.collector.get()

    asyncio.run(run())
