"""harmony's vocabulary is made from a tokenizer only if it is that vocabulary."""

import json

import pytest

from handler.model.harmony import uses_harmony, write_vocabulary
from tests.support.model_folders import model_folder


@pytest.mark.parametrize(("model_type", "uses"), [("gpt_oss", True), ("llama", False)])
def test_only_gpt_oss_uses_harmony(tmp_path, model_type, uses):
    folder = model_folder(tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert uses_harmony(folder) is uses


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [
        ({"model": {"vocab": {"a": 0}}}, "tokenizer.json has another vocabulary"),
        ({"model": {"vocab": {"\u2581a": 0}}}, "tokenizer.json has no vocabulary of bytes"),
        ({}, "tokenizer.json has no vocabulary"),
        (None, "tokenizer.json cannot be read"),
    ],
    ids=["another", "not of bytes", "none", "no file"],
)
def test_another_vocabulary_is_not_taken_for_harmonys(tmp_path, caplog, tokenizer, reason):
    if tokenizer is not None:
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert write_vocabulary(tmp_path, tmp_path / "cache") == {}
    assert not (tmp_path / "cache").exists()
    assert caplog.messages == [
        f"harmony's vocabulary is downloaded at the first use ({reason}): without a network set "
        "TIKTOKEN_ENCODINGS_BASE to a folder with o200k_base.tiktoken"
    ]
