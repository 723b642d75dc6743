"""What a checkpoint's weights take: as they are, or after a quantization that is still to be made.

Quantizing leaves embeddings, norms, routers, and whatever is no language model, as they are:
llm-compressor's recipes in `builder/quantize` do so.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from builder.errors import Refused
from builder.plan.source import Source
from handler.memory.tensors import Tensor
from handler.model.checkpoint import is_of

GROUP = 128
# Of one weight: 4 bits, and for each group a scale in 16 bits and a zero point in 4.
AWQ_BYTES = 0.5 + (2 + 0.5) / GROUP
FP8_BYTES = 1.0
BYTES = {"awq": AWQ_BYTES, "fp8": FP8_BYTES, "bf16": 2.0}
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
    """

    bytes: int
    expert_bytes: int
    embedding_bytes: int
    method: str
    is_made: bool

    def read_bytes(self, sequences: int, experts: int, used: int) -> float:
        """Return what one step reads, when each of some sequences needs experts of its own."""
        missed = (1 - used / experts) ** sequences if experts > 1 else 0.0
        return self.bytes - self.embedding_bytes - self.expert_bytes * missed


def weights(source: Source, wanted: str) -> Weights:
    """Return what the weights take in a method; auto is the checkpoint's own.

    Raises:
        Refused: the checkpoint is quantized in another.
    """
    found = source.quantization
    if found is None:
        method = "bf16" if wanted == "auto" else wanted
        sizes = [_size(tensor, method) for tensor in source.tensors]
        return _weights(source.tensors, sizes, method, method == "bf16")
    if wanted != "auto" and not is_of(wanted, found):
        raise Refused(
            f"{source.name} is quantized as {found!r}, not {wanted}: plan for it as it is, or for "
            "the unquantized model."
        )
    return _weights(source.tensors, [tensor.bytes for tensor in source.tensors], found, True)


def _weights(
    tensors: Iterable[Tensor], sizes: Iterable[float], method: str, is_made: bool
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
    return Weights(round(total), round(experts), 0 if tied else round(embedding), method, is_made)


def _size(tensor: Tensor, method: str) -> float:
    """Return what an unquantized tensor takes in a method."""
    if tensor.dtype not in UNQUANTIZED:
        return float(tensor.bytes)
    is_kept = len(tensor.shape) < 2 or KEPT.search(tensor.name)
    return tensor.elements * (BYTES["bf16"] if is_kept else BYTES[method])
