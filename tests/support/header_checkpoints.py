"""Checkpoints whose weights are holes after the headers: nothing reads more before a start."""

import json
import os
from math import prod

from tests.support.model_configs import LLAMA_70B

ELEMENT_BYTES = {"BF16": 2, "F32": 4, "I32": 4, "F8_E4M3": 1}


def safetensors_header(tensors):
    """Return the beginning of a safetensors file with tensors of some (dtype, shape) by name."""
    entries, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        end = offset + prod(shape) * ELEMENT_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def header_checkpoint(folder, weights_bytes, *, dtype="BF16", name="w", **config):
    """Write the config of Llama 70B with more fields, and one tensor of some bytes."""
    (folder / "config.json").write_text(json.dumps(LLAMA_70B | config))
    tensor = (dtype, [weights_bytes // ELEMENT_BYTES[dtype]])
    file = folder / "model.safetensors"
    file.write_bytes(header := safetensors_header({name: tensor}))
    os.truncate(file, len(header) + prod(tensor[1]) * ELEMENT_BYTES[dtype])
    return folder
