"""Size of a model's weights, as published or after a planned quantization.

Quantizing leaves embeddings, norms, routers and everything outside the language model as they are,
like the llm-compressor recipes in `builder/quantize`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from builder.errors import CheckpointRefused
from builder.plan.model_metadata import ModelMetadata
from builder.plan.quantization_groups import QuantizationGroups, parse_quantization_groups
from builder.quantize.recipe import select_group_size
from handler.model.quantization import method_matches
from handler.model.safetensors import Tensor

ELEMENT_BYTES = {"fp8": 1.0, "bf16": 2.0, "awq": 0.5}
AWQ_GROUP_BYTES = 2.5  # a 16-bit scale and a 4-bit zero point
UNQUANTIZED_LAYERS = re.compile(
    r"embed|lm_head|norm|\.gate\.weight|router|visual|vision|audio|projector|conv1d|A_log|dt_bias"
)
EXPERTS = re.compile(
    r"\.experts\.|\.experts_|block_sparse_moe\.(?:experts|input_linear|output_linear)"
)
EMBEDDING = re.compile(r"embed_tokens|wte\.weight$")
UNQUANTIZED_TYPES = {"BF16", "F16", "F32"}


@dataclass(frozen=True)
class WeightSizes:
    """Size of a model's weights.

    Attributes:
        expert_bytes: of the routed experts among them, of which a token needs few.
        embedding_bytes: of the embedding, of which a token reads one row; 0 where it is tied.
        method: awq, fp8, bf16 or another quantization.
        is_published: whether the checkpoint is in this method already.
        groups: of quantized weights that share scales, None where they never prevent a split.
    """

    bytes: int
    expert_bytes: int
    embedding_bytes: int
    method: str
    is_published: bool
    groups: QuantizationGroups | None = None

    def step_bytes(self, sequences: int, experts: int, experts_per_token: int) -> float:
        """Return the bytes that one decode step reads, if sequences choose experts independently.

        `experts` are the routed ones of a layer, 1 in a dense model.
        """
        unused = (1 - experts_per_token / experts) ** sequences if experts > 1 else 0.0
        return self.bytes - self.embedding_bytes - self.expert_bytes * unused


def measure_weights(model: ModelMetadata, method: str) -> WeightSizes:
    """Return the size of the weights in a method; `auto` is the checkpoint's own.

    Raises:
        CheckpointRefused: it is quantized in another method, or AWQ's groups do not divide a layer.
    """
    if model.quantization is None:
        method = "bf16" if method == "auto" else method
        groups = _awq_groups(model.tensors) if method == "awq" else None
        element_bytes = ELEMENT_BYTES[method] + (AWQ_GROUP_BYTES / groups.inputs if groups else 0)
        sizes = [_quantized_bytes(tensor, element_bytes) for tensor in model.tensors]
        is_published = method == "bf16"
    elif method == "auto" or method_matches(method, model.quantization):
        method = model.quantization
        groups = parse_quantization_groups(model.config)
        sizes = [float(tensor.bytes) for tensor in model.tensors]
        is_published = True
    else:
        raise CheckpointRefused(
            f"{model.name} is quantized as {model.quantization!r}, not {method}: leave "
            "--quantization out, or plan the unquantized model."
        )
    sized = list(zip(model.tensors, sizes, strict=True))
    # A tied embedding is also the last layer, which every step reads.
    is_tied = not any("lm_head" in tensor.name for tensor in model.tensors)
    embedding = sum(size for tensor, size in sized if EMBEDDING.search(tensor.name))
    return WeightSizes(
        bytes=round(sum(sizes)),
        expert_bytes=round(sum(size for tensor, size in sized if EXPERTS.search(tensor.name))),
        embedding_bytes=0 if is_tied else round(embedding),
        method=method,
        is_published=is_published,
        groups=groups,
    )


def _awq_groups(tensors: Sequence[Tensor]) -> QuantizationGroups:
    """Return the groups that `builder quantize --to awq` makes."""
    quantized = (tensor for tensor in tensors if not _stays_unquantized(tensor))
    return QuantizationGroups(select_group_size({each.name: each.shape[-1] for each in quantized}))


def _quantized_bytes(tensor: Tensor, element_bytes: float) -> float:
    """Return the size of an unquantized tensor after quantization."""
    if tensor.dtype not in UNQUANTIZED_TYPES:
        return float(tensor.bytes)
    if _stays_unquantized(tensor):
        element_bytes = ELEMENT_BYTES["bf16"]
    return tensor.elements * element_bytes


def _stays_unquantized(tensor: Tensor) -> bool:
    is_depthwise_convolution = len(tensor.shape) == 3 and tensor.shape[1] == 1
    is_vector = len(tensor.shape) < 2
    return is_vector or is_depthwise_convolution or bool(UNQUANTIZED_LAYERS.search(tensor.name))
