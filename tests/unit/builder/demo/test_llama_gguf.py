"""Names and row order of a Llama GGUF's tensors."""

import numpy as np
import pytest

from builder.demo.llama_gguf import hugging_face_name, rope_halves
from builder.errors import GgufError


def test_rope_halves_undoes_llama_cpp():
    rows = np.arange(2 * 8, dtype=np.float32).reshape(16, 1)
    interleaved = rows.reshape(2, 2, 4, 1).swapaxes(1, 2).reshape(16, 1)
    assert interleaved[:8, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert rope_halves(interleaved, heads=2).tolist() == rows.tolist()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.7.attn_q.weight", "model.layers.7.self_attn.q_proj.weight"),
    ],
)
def test_tensors_have_hugging_faces_names(name, expected):
    assert hugging_face_name(name) == expected


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.ssm_a.weight"])
def test_a_tensor_of_another_architecture_is_refused(name):
    with pytest.raises(GgufError) as refused:
        hugging_face_name(name)
    assert str(refused.value) == f"tensor {name!r} is not part of a Llama model"
