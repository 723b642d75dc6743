"""A worker with a scripted vLLM."""

import pytest

from tests.support.parser_outputs import vllm as recorded
from tests.support.scripted_vllm import scripted_vllm, tokenizer_with


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    """A worker whose tokenizer has the tags of all formats."""
    tags = recorded.markers()
    special = [tag for tag in tags if recorded.is_special(tag)]
    with scripted_vllm(tokenizer_with(tmp_path_factory.mktemp("tokenizer"), tags, special)) as made:
        yield made
