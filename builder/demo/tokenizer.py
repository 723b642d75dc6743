"""The tokenizer's files, from a GGUF's vocabulary.

GGUF names the pre-tokenizer ("smollm") and does not spell it out, so it stands here; the rest
is read. It does not know which model the tokenizer belongs to.
"""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from builder.demo.gguf_llama import Vocabulary


def tokenizer_json(vocabulary: Vocabulary) -> str:
    """`tokenizer.json`: byte-level BPE that splits off each digit first."""
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(vocabulary.tokens)},
            merges=[_pair(merge) for merge in vocabulary.merges],
        )
    )
    # As upstream and llama.cpp have it ("smollm": \p{N}, then GPT-2's expression). Without the
    # digits, "2024" would be looked up as one word that the merges never saw in training.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in vocabulary.special]
    )
    return tokenizer.to_str(pretty=True) + "\n"


def tokenizer_config(vocabulary: Vocabulary, longest_tokens: int) -> dict[str, Any]:
    """`tokenizer_config.json`; the chat template is a file of its own, as transformers 5 has it."""
    return {
        "add_prefix_space": False,
        "bos_token": vocabulary.bos,
        "clean_up_tokenization_spaces": False,
        "eos_token": vocabulary.eos,
        "model_max_length": longest_tokens,
        "pad_token": vocabulary.pad,
        # Not GPT2Tokenizer, which upstream names: in transformers 5 that class builds GPT-2's
        # own pre-tokenizer and takes only vocabulary and merges from tokenizer.json.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": vocabulary.unknown,
    }


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right
