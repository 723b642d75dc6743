"""Answers of SGLang's chat handler, plain and streamed, to tokens that come in given steps.

Real are the parsers, the chat handler, the detokenizer and most of the tokenizer manager: what
hands the detokenizer's batches to a stream. `FakeTokenizerManager` takes the place of the processes
below, for no small model writes a given text in the format of each parser, in given steps. Import
it in SGLang's Python environment.
"""

import asyncio
import json
import random
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest
from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
from sglang.srt.managers import detokenizer_manager, tokenizer_manager
from sglang.srt.managers.detokenizer_manager import DetokenizerManager
from sglang.srt.managers.io_struct import BatchStrOutput, GenerateReqInput
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.runtime_context import get_serving, publish
from sglang.srt.server_args import ServerArgs
from sglang.srt.utils.aio_rwlock import RWLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from handler.engine.pacing import Pacer
from handler.engine.sglang import patches
from handler.engine.sglang.detokenizer import append_only_status
from tests.support.environment import MODELS, NAME

END = "<|end_of_turn|>"
PROMPT = "What is there? "


@contextmanager
def sglang_without_engine(**settings):
    """SGLang's settings in this process, and the worker's states of a request and of its text."""
    model_path = str(MODELS / f"{NAME}-bf16")
    publish(ServerArgs(model_path=model_path, device="cpu", **settings), role="tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_manager, "ReqState", patches._paced_state(Pacer()))
        patch.setattr(detokenizer_manager, "DecodeStatus", append_only_status())
        yield


def make_tokenizer(texts, marks):
    """Return a byte-level tokenizer that has each mark as one token, and usual words."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        min_frequency=8,
        special_tokens=[END, *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([PROMPT, *texts], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)


class FakeTokenizerManager(TokenizerManager):
    """SGLang's, with an engine that answers from a list.

    Attributes:
        answers: of the next requests. An answer is a list of flushes, a flush a list of steps and a
            step a list of token ids: a stream's consumer does not run within a flush.
        finish_reason: of the last step of each.
    """

    def __init__(self, tokenizer, **parsers):
        self.tokenizer = tokenizer
        self.parsers = parsers
        self.answers = []
        self.finish_reason = None
        self.rid_to_state = {}
        self.incremental_streaming_output = get_serving().incremental_streaming_output
        self.enable_metrics = self.enable_lora = self.enable_trace = False
        self.enable_priority_scheduling = self.skip_tokenizer_init = self._is_pause = False
        self.dump_requests_folder = self.crash_dump_folder = ""
        self.disaggregation_mode = self.server_args = None
        self.model_path = "model"
        self.model_config = SimpleNamespace(
            hf_config=SimpleNamespace(model_type="llama", architectures=["LlamaForCausalLM"]),
            get_default_sampling_params=dict,
            is_multimodal=False,
        )
        nothing = SimpleNamespace(log_received_request=ignore, log_finished_request=ignore)
        self.request_logger = nothing
        self.request_metrics_exporter_manager = SimpleNamespace(exporter_enabled=lambda: False)
        self.is_pause_cond = asyncio.Condition()
        self.model_update_lock = RWLock()
        self._tasks = set()

    def config_value(self, name):
        return self.parsers.get(name)

    def auto_create_handle_loop(self):
        """No batch is received."""

    async def _validate_and_resolve_lora(self, obj):
        """There is no adapter."""

    async def _tokenize_one_request(self, obj):
        return SimpleNamespace(rid=obj.rid, sampling_params=SimpleNamespace(max_new_tokens=None))

    async def _send_one_request(self, tokenized):
        # Before several answers to a prompt SGLang has it prefilled.
        prefill = tokenized.sampling_params.max_new_tokens == 0
        flushes = [[[]]] if prefill else self.answers.pop(0)
        task = asyncio.create_task(self._generate(self.rid_to_state[tokenized.rid].obj, flushes))
        self._tasks.add(task)

    async def _generate(self, obj, flushes):
        detokenizer = make_detokenizer(self.tokenizer)
        prompt = self.tokenizer.encode(PROMPT)
        total = 0
        for flush in flushes:
            for ids in flush:
                is_last = flush is flushes[-1] and ids is flush[-1]
                reason = self.finish_reason if is_last else None
                text = detokenizer._decode_batch_token_id_output(
                    SimpleNamespace(
                        rids=[obj.rid],
                        decoded_texts=[""],
                        decode_ids=[ids if total else prompt + ids],
                        read_offsets=[len(prompt)],
                        finished_reasons=[reason],
                        no_stop_trim=[False],
                        skip_special_tokens=[obj.sampling_params["skip_special_tokens"]],
                        spaces_between_special_tokens=[True],
                    )
                )
                total += len(ids)
                await self._handle_batch_output(batch(obj, ids, text, total, reason))
            for _ in range(4):
                await asyncio.sleep(0)  # the consumer takes the flush


def cut(ids, seed):
    """Cut tokens into flushes of some steps of some tokens."""
    chance, flushes = random.Random(seed), []
    while ids:
        flush = []
        for _ in range(chance.randint(1, 6)):
            size = chance.choice((1, 1, 2, 3, 5))
            flush += [ids[:size]] if ids else []
            ids = ids[size:]
        flushes.append(flush)
    return flushes


def ignore(*_, **__):
    """Log nothing."""


def make_detokenizer(tokenizer):
    made = DetokenizerManager.__new__(DetokenizerManager)
    made.tokenizer = tokenizer
    made.decode_status = {}
    made.vocab_size = len(tokenizer)
    made.disable_tokenizer_batch_decode = False
    made.is_tool_call_parser_gpt_oss = False
    made.tool_close_token_ids = []
    return made


def batch(obj, ids, text, total, reason):
    """Return the detokenizer's batch of one step."""
    fields = dict.fromkeys(BatchStrOutput.__struct_fields__) | {
        "rids": [obj.rid],
        "finished_reasons": [reason],
        "output_strs": text,
        "output_ids": [ids],
        "prompt_tokens": [len(PROMPT)],
        "completion_tokens": [total],
        "reasoning_tokens": [0],
        "cached_tokens": [0],
        "retraction_counts": [0],
    }
    if obj.return_logprob:
        fields |= {
            "output_token_logprobs_val": [[-float(token) for token in ids]],
            "output_token_logprobs_idx": [ids],
        }
    return BatchStrOutput(**fields)


def make_serving(tokenizer, **parsers):
    """Return SGLang's chat handler with a fake tokenizer manager."""
    template = SimpleNamespace(
        force_reasoning=False,
        reasoning_config=None,
        chat_template_name=None,
        python_chat_template=None,
    )
    return OpenAIServingChat(FakeTokenizerManager(tokenizer, **parsers), template)


def ask(serving, answers, *, stream=None, finish_reason=None, **fields):
    """Return what a client has of an answer: its choices and its usage.

    Args:
        answers: see `FakeTokenizerManager`.
        stream: the function that streams, of the handler's class; without one the answer is plain.
        fields: of the request.
    """
    manager = serving.tokenizer_manager
    manager.answers = list(answers)
    end = {"type": "stop", "matched": manager.tokenizer.eos_token_id}
    manager.finish_reason = finish_reason or end
    request = ChatCompletionRequest(
        model="model",
        messages=[{"role": "user", "content": PROMPT}],
        skip_special_tokens=False,
        **fields,
        **({"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
    )
    adapted = GenerateReqInput(
        input_ids=[0],
        sampling_params={"skip_special_tokens": False, "n": request.n},
        stream=request.stream,
        return_logprob=request.logprobs,
        return_text_in_logprobs=True,
    )
    if stream is None:
        return asyncio.run(_plain(serving, adapted, request))
    return asyncio.run(_streamed(stream(serving, adapted, request, None)))


async def _plain(serving, adapted, request):
    generated = serving.tokenizer_manager.generate_request(adapted)
    (outputs,) = [output async for output in generated]
    outputs = outputs if isinstance(outputs, list) else [outputs]
    response = json.loads(serving._build_chat_response(request, outputs, 0).model_dump_json())
    choices = []
    for choice in response["choices"]:
        message = choice["message"]
        calls = [call["function"] for call in message.get("tool_calls") or []]
        choices.append(
            {
                "text": message["content"] or "",
                "reasoning": message.get("reasoning_content") or "",
                "calls": [(call["name"], call["arguments"]) for call in calls],
                "logprobs": _tokens(choice),
                "finish_reason": choice["finish_reason"],
            }
        )
    return {"choices": choices, "usage": response["usage"]}


async def _streamed(events):
    """Put a stream together as OpenAI's client does."""
    choices, usage = {}, None
    async for event in events:
        data = event.removeprefix("data: ").strip()
        if data == "[DONE]":
            break
        chunk = json.loads(data)
        usage = chunk.get("usage") or usage
        for part in chunk["choices"]:
            empty = {"text": "", "reasoning": "", "calls": {}, "logprobs": []}
            choice = choices.setdefault(part["index"], empty)
            delta = part["delta"]
            choice["text"] += delta.get("content") or ""
            choice["reasoning"] += delta.get("reasoning_content") or ""
            choice["logprobs"] += _tokens(part)
            choice["finish_reason"] = part.get("finish_reason")
            for each in delta.get("tool_calls") or []:
                call = choice["calls"].setdefault(each["index"], ["", ""])
                call[0] += each["function"].get("name") or ""
                call[1] += each["function"].get("arguments") or ""
    for choice in choices.values():
        choice["calls"] = [tuple(call) for _, call in sorted(choice["calls"].items())]
    return {"choices": [choice for _, choice in sorted(choices.items())], "usage": usage}


def _tokens(choice):
    """Return the tokens of a choice's logprobs, and each one's."""
    content = (choice.get("logprobs") or {}).get("content") or []
    return [(token["token"], token["logprob"]) for token in content]
