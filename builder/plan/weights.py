"""Size of a model's weights, as published or after a quantization that is still to be done.

Quantizing leaves embeddings, norms, routers and everything outside the language model as they are,
like the llm-compressor recipes in `builder/quantize`.
"""

import re
from dataclasses import dataclass

from builder.errors import CheckpointRefused
from builder.plan.model_metadata import ModelMetadata
from builder.plan.quantization_groups import QuantizationGroups, parse_quantization_groups
from builder.quantize.recipe import DEFAULT_GROUP_SIZES, fitting_group_size
from handler.model.checkpoint import method_matches
from handler.model.safetensors import Tensor

ELEMENT_BYTES = {"fp8": 1.0, "bf16": 2.0}
# In AWQ: 4 bits, and for each group a 16-bit scale and a 4-bit zero point.
AWQ_ELEMENT_BYTES, AWQ_GROUP_BYTES = 0.5, 2.5
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
        bytes: of all weights.
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

        Args:
            sequences: decoded at once.
            experts: routed experts of a layer, 1 in a dense model.
            experts_per_token: of these, used by one token.
        """
        unused = (1 - experts_per_token / experts) ** sequences if experts > 1 else 0.0
        return self.bytes - self.embedding_bytes - self.expert_bytes * unused


def measure_weights(model: ModelMetadata, method: str) -> WeightSizes:
    """Return the size of the weights in a method; `auto` is the checkpoint's own.

    Raises:
        CheckpointRefused: it is quantized in another method, or cannot be quantized in this one.
    """
    if model.quantization is None:
        method = "bf16" if method == "auto" else method
        groups = _awq_groups(model) if method == "awq" else None
        sizes = [_quantized_bytes(tensor, method, groups) for tensor in model.tensors]
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


def _awq_groups(model: ModelMetadata) -> QuantizationGroups:
    """Return the groups that `builder quantize --to awq` makes.

    Raises:
        CheckpointRefused: no size of groups divides every layer.
    """
    widths = {
        tensor.name: tensor.shape[-1] for tensor in model.tensors if not _stays_unquantized(tensor)
    }
    if size := fitting_group_size(widths.values()):
        return QuantizationGroups(size)
    name, width = next(
        (name, width) for name, width in widths.items() if width % DEFAULT_GROUP_SIZES[-1]
    )
    raise CheckpointRefused(
        f"{model.name} cannot be quantized as awq: {name} has {width} inputs, which groups of "
        f"{' or '.join(map(str, DEFAULT_GROUP_SIZES))} do not divide. Choose --quantization fp8."
    )


def _quantized_bytes(tensor: Tensor, method: str, groups: QuantizationGroups | None) -> float:
    """Return the size of an unquantized tensor after quantization."""
    if tensor.dtype not in UNQUANTIZED_TYPES:
        return float(tensor.bytes)
    if _stays_unquantized(tensor):
        return tensor.elements * ELEMENT_BYTES["bf16"]
    if groups is not None:
        return tensor.elements * (AWQ_ELEMENT_BYTES + AWQ_GROUP_BYTES / groups.inputs)
    return tensor.elements * ELEMENT_BYTES[method]


def _stays_unquantized(tensor: Tensor) -> bool:
    is_depthwise_convolution = len(tensor.shape) == 3 and tensor.shape[1] == 1
    is_vector = len(tensor.shape) < 2
    return is_vector or is_depthwise_convolution or bool(UNQUANTIZED_LAYERS.search(tensor.name))
