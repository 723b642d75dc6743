"""harmony's vocabulary, made from a tokenizer, is the one that is built into vLLM's package."""

import json

from openai_harmony import HarmonyEncodingName, load_harmony_encoding

from handler.model.harmony import FILE, _bytes_of_characters, write_vocabulary

BASE_TOKENS = 199_998  # what follows are special tokens, which are not in the file


def test_the_vocabulary_is_made_from_the_tokenizer_once(tmp_path):
    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    characters = {byte: character for character, byte in _bytes_of_characters().items()}
    vocabulary = {
        "".join(characters[byte] for byte in encoding._inner.decode_bytes([rank])): rank
        for rank in range(BASE_TOKENS)
    }
    tokenizer = {"model": {"type": "BPE", "vocab": vocabulary}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    cache = tmp_path / "cache"
    assert write_vocabulary(tmp_path, cache) == {"TIKTOKEN_ENCODINGS_BASE": str(cache)}
    (tmp_path / "tokenizer.json").unlink()
    assert write_vocabulary(tmp_path, cache) == {"TIKTOKEN_ENCODINGS_BASE": str(cache)}
    assert [path.name for path in cache.iterdir()] == [FILE]
