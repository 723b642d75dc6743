"""vLLM's core compiles each constraint with the backend that it was checked for."""

import json
from types import SimpleNamespace

import pytest

from tests.support.environment import MODELS, NAME

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TAG = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": CITY}}
THIRDS = {"type": "integer", "multipleOf": 3}


@pytest.fixture
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODELS / f"{NAME}-bf16")


@pytest.fixture
def manager(monkeypatch, tokenizer):
    """The manager of an engine core with the demo model's tokenizer."""
    from handler.engine.vllm.grammars import GrammarManager

    monkeypatch.setattr(
        "vllm.v1.structured_output.cached_tokenizer_from_config", lambda **_: tokenizer
    )
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(distributed_executor_backend="uni"),
        scheduler_config=SimpleNamespace(max_num_seqs=4),
        model_config=SimpleNamespace(
            skip_tokenizer_init=False,
            hf_config=SimpleNamespace(model_type="llama"),
            get_vocab_size=lambda: len(tokenizer),
        ),
        structured_outputs_config=SimpleNamespace(
            reasoning_parser="",
            reasoning_parser_plugin="",
            enable_in_reasoning=False,
            disable_any_whitespace=False,
            disable_additional_properties=False,
        ),
        speculative_config=None,
    )
    manager = GrammarManager(config)
    yield manager
    manager.clear_backend()


def request(backend, *, finished=False, **constraint):
    """A request as the core has it, after the check that chose the backend."""
    from vllm.sampling_params import SamplingParams, StructuredOutputsParams
    from vllm.v1.structured_output.request import StructuredOutputRequest

    params = StructuredOutputsParams(**constraint)
    params._backend = backend
    sampling = SamplingParams(structured_outputs=params)
    return SimpleNamespace(
        request_id="r",
        sampling_params=sampling,
        structured_output_request=StructuredOutputRequest(params=params),
        is_finished=lambda: finished,
    )


def compiled(manager, request):
    manager.grammar_init(request)
    return request.structured_output_request._grammar.result()


def accepts(grammar, tokenizer, text):
    ids = tokenizer.encode(text)
    return len(grammar.validate_tokens(ids)) == len(ids)


@pytest.mark.parametrize("first", ["xgrammar", "guidance"])
def test_each_request_is_compiled_by_its_own_backend(manager, tokenizer, first):
    """Guidance has no structural tags of this form."""
    tags = request("xgrammar", structural_tag=json.dumps(TAG))
    thirds = request("guidance", json=THIRDS)
    order = [tags, thirds] if first == "xgrammar" else [thirds, tags]
    for each in order:
        compiled(manager, each)
    tag, third = (each.structured_output_request.grammar for each in (tags, thirds))
    assert accepts(tag, tokenizer, '{"city": "Paris"}')
    assert not accepts(tag, tokenizer, "9")
    ten = tokenizer.encode("10")
    assert third.accept_tokens("r", ten)
    mask = manager.backend.allocate_token_bitmask(2)
    for row, grammar in enumerate((tag, third)):
        grammar.fill_bitmask(mask, row)
    [brace], [two] = tokenizer.encode("{"), tokenizer.encode("2")
    tokens = (brace, two, tokenizer.eos_token_id)
    allowed = [[bool(mask[row, t // 32] >> (t % 32) & 1) for t in tokens] for row in (0, 1)]
    assert allowed == [[True, False, False], [False, True, False]], "10 is no multiple, 102 is one"


def test_backends_with_other_masks_are_not_mixed(manager, monkeypatch):
    """The masks of all requests are one tensor."""
    import torch

    guidance = "vllm.v1.structured_output.backend_guidance.GuidanceBackend.allocate_token_bitmask"
    compiled(manager, request("xgrammar", json=CITY))
    monkeypatch.setattr(guidance, lambda _, rows: torch.zeros(rows, 1))
    assert type(compiled(manager, request("guidance", json=CITY))).__name__ == "XgrammarGrammar"


def test_nothing_is_compiled_for_a_caller_who_has_left(manager):
    """The threads that compile are few, and the requests of others wait for them."""
    from handler.engine.vllm.grammars import CallerHasLeft

    with pytest.raises(CallerHasLeft):
        compiled(manager, request("xgrammar", json=CITY, finished=True))


def test_the_core_of_this_process_gets_the_manager(monkeypatch):
    from vllm.v1.engine import core

    from handler.engine.vllm import grammars

    monkeypatch.setattr(core, "StructuredOutputManager", None)
    grammars.use_in_core()
    assert core.StructuredOutputManager is grammars.GrammarManager
