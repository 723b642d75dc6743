"""What a checkpoint's weights take: as they are, or after a quantization that is still to be made.

Quantizing leaves embeddings, norms, routers, and whatever is no language model, as they are:
llm-compressor's recipes in `builder/quantize` do so.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from builder.errors import CheckpointRefused
from builder.plan.source import Source
from builder.quantize.recipe import DEFAULT_GROUP_SIZES, fitting_group_size
from handler.memory.groups import Groups, groups
from handler.model.checkpoint import method_matches
from handler.model.safetensors import Tensor

BYTES = {"fp8": 1.0, "bf16": 2.0}
KEPT = re.compile(
    r"embed|lm_head|norm|\.gate\.weight|router|visual|vision|audio|projector|conv1d|A_log|dt_bias"
)
EXPERT = re.compile(
    r"\.experts\.|\.experts_|block_sparse_moe\.(?:experts|input_linear|output_linear)"
)
UNQUANTIZED = {"BF16", "F16", "F32"}


@dataclass(frozen=True)
class Weights:
    """What they take.

    Attributes:
        bytes: all of them.
        expert_bytes: those of the experts among them, of which a token needs few.
        embedding_bytes: those of the embedding, of which a token reads one row.
        method: in which they are, such as awq, fp8 or bf16.
        is_made: whether the checkpoint is so already.
        groups: how they share scales, None where that is no obstacle to several GPUs.
    """

    bytes: int
    expert_bytes: int
    embedding_bytes: int
    method: str
    is_made: bool
    groups: Groups | None = None

    def read_bytes(self, sequences: int, experts: int, used: int) -> float:
        """Return what one step reads, when each of some sequences needs experts of its own."""
        missed = (1 - used / experts) ** sequences if experts > 1 else 0.0
        return self.bytes - self.embedding_bytes - self.expert_bytes * missed


def weights(source: Source, wanted: str) -> Weights:
    """Return what the weights take in a method; auto is the checkpoint's own.

    Raises:
        CheckpointRefused: the checkpoint is quantized in another, or cannot be quantized so.
    """
    found = source.quantization
    if found is None:
        method = "bf16" if wanted == "auto" else wanted
        shared = _groups_to_make(source) if method == "awq" else None
        sizes = [_size(tensor, method, shared) for tensor in source.tensors]
        return _weights(source.tensors, sizes, method, method == "bf16", shared)
    if wanted != "auto" and not method_matches(wanted, found):
        raise CheckpointRefused(
            f"{source.name} is quantized as {found!r}, not {wanted}: plan for it as it is, or for "
            "the unquantized model."
        )
    sizes = [tensor.bytes for tensor in source.tensors]
    return _weights(source.tensors, sizes, found, True, groups(source.config))


def _weights(
    tensors: Iterable[Tensor],
    sizes: Iterable[float],
    method: str,
    is_made: bool,
    shared: Groups | None,
) -> Weights:
    total, experts, embedding, tied = 0.0, 0.0, 0.0, True
    for tensor, size in zip(tensors, sizes, strict=True):
        total += size
        if EXPERT.search(tensor.name):
            experts += size
        elif "embed_tokens" in tensor.name or tensor.name.endswith("wte.weight"):
            embedding += size
        tied = tied and "lm_head" not in tensor.name
    # A tied embedding is also the last layer, which every step reads.
    read_by_row = 0 if tied else round(embedding)
    return Weights(round(total), round(experts), read_by_row, method, is_made, shared)


def _groups_to_make(source: Source) -> Groups:
    """Return the groups that `quantize` takes for AWQ."""
    inputs = {each.name: each.shape[-1] for each in source.tensors if not _is_kept(each)}
    if size := fitting_group_size(inputs.values()):
        return Groups(size)
    name, width = next((n, w) for n, w in inputs.items() if w % DEFAULT_GROUP_SIZES[-1])
    raise CheckpointRefused(
        f"{source.name} cannot be quantized as awq: {name} has {width} inputs, which do not divide "
        f"into groups of {' or '.join(map(str, DEFAULT_GROUP_SIZES))}. Choose --quantization fp8."
    )


def _size(tensor: Tensor, method: str, shared: Groups | None) -> float:
    """Return what an unquantized tensor takes in a method."""
    if tensor.dtype not in UNQUANTIZED:
        return float(tensor.bytes)
    if _is_kept(tensor):
        return tensor.elements * BYTES["bf16"]
    if shared is not None:  # 4 bits, and for each group a scale in 16 bits and a zero point in 4
        return tensor.elements * (0.5 + (2 + 0.5) / shared.inputs)
    return tensor.elements * BYTES[method]


def _is_kept(tensor: Tensor) -> bool:
    is_convolution = len(tensor.shape) == 3 and tensor.shape[1] == 1  # of each channel by itself
    return len(tensor.shape) < 2 or is_convolution or KEPT.search(tensor.name) is not None
