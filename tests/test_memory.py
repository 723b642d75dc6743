"""What a model takes of a GPU's memory, and that one which cannot fit is refused before it loads.

Configurations are the published ones, cut to the fields that matter.
"""

import json
import stat

import pytest

from handler.engine.vllm import platform
from handler.errors import EngineStartFailed, ModelUnavailable
from handler.memory import fit
from handler.memory.architecture import architecture
from handler.memory.fit import Demand, largest_context
from handler.memory.gpus import memory_bytes
from handler.memory.layers import kinds
from handler.memory.states import state_bytes
from handler.model.checkpoint import has_fp8_cache
from handler.model.safetensors import Tensor, in_file, in_folder
from tests.support.environment import MODELS, NAME
from tests.support.vllm_adapter import checked_vllm_adapter as check

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported

LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
}
QWEN3_NEXT = {
    "model_type": "qwen3_next",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "full_attention_interval": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "mamba_ssm_dtype": "float32",
}
SMALL = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8}


def test_a_published_example():
    """Llama 3 70B: 80 layers × 2 × 8 heads × 128 × 4096 tokens × 2 bytes, 1.3 GB."""
    model = architecture(LLAMA_70B)
    assert model.kv_bytes(4096) == 80 * 2 * 8 * 128 * 4096 * 2 == 1_342_177_280
    assert model.kv_bytes(4096, element_bytes=1) == 671_088_640
    assert model.kv_bytes_per_token() == 327_680


def test_gpus_share_the_heads_and_not_one_head():
    """Eight KV heads over four GPUs are two each; over sixteen each has one whole."""
    model = architecture(LLAMA_70B)
    assert [model.kv_bytes(1, gpus=gpus) for gpus in (1, 4, 8, 16)] == [327680, 81920, 40960, 40960]


def test_latent_attention_keeps_one_vector():
    """On each GPU all of it; a sparse model's indexer beside it."""
    model = architecture(DEEPSEEK_V3)
    assert [model.kv_bytes(1, gpus=gpus) for gpus in (1, 8)] == [61 * 576 * 2] * 2
    sparse = architecture(DEEPSEEK_V3 | {"model_type": "deepseek_v32", "index_head_dim": 128})
    assert sparse.kv_bytes(1) == 61 * (576 * 2 + 132)
    assert (model.experts, model.experts_used, model.intermediate) == (256, 8, 18432)


def test_a_window_bounds_what_is_kept():
    """Half of the layers of this one see 128 tokens, and what is beyond is forgotten."""
    layers = ["sliding_attention", "full_attention"] * 12
    config = {
        "hidden_size": 2880,
        "num_hidden_layers": 24,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "sliding_window": 128,
        "layer_types": layers,
    }
    model = architecture(config)
    per_layer = 8 * 2 * 64 * 2
    assert model.kv_bytes(100) == 24 * 100 * per_layer
    assert model.kv_bytes(10_000) == 12 * 10_000 * per_layer + 12 * 128 * per_layer
    assert model.kv_bytes_per_token() == 24 * per_layer
    assert model.kv_bytes_per_token(at=10_000) == 12 * per_layer


def test_a_state_does_not_grow():
    """Attention in every fourth layer only, a gated delta net in the others."""
    model = architecture(QWEN3_NEXT)
    attention = 12 * 2 * 2 * 256 * 2
    states = 36 * (3 * (2 * 16 * 128 + 32 * 128) * 2 + 32 * 128 * 128 * 4)
    assert model.kv_bytes(1000) == 1000 * attention + states
    assert model.kv_bytes(1000, states=2) == 1000 * attention + 2 * states
    assert model.kv_bytes_per_token() == attention


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "ffffff"),
        ({"sliding_window": 4096}, "ssssss"),
        ({"model_type": "qwen2", "sliding_window": 4096}, "ffffff"),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, "ffffff"),
        (
            {"model_type": "qwen2", "sliding_window": 9, "use_sliding_window": True}
            | {"max_window_layers": 4},
            "ffffss",
        ),
        ({"model_type": "gemma2", "sliding_window": 4096}, "sfsfsf"),
        ({"model_type": "gemma3_text", "sliding_window": 1024}, "sssssf"),
        ({"sliding_window": 1024, "sliding_window_pattern": 3}, "ssfssf"),
        ({"model_type": "llama4_text", "attention_chunk_size": 8192}, "cccfcc"),
        ({"attention_chunk_size": 8192, "no_rope_layers": [1, 0, 1, 1, 1, 0]}, "cfcccf"),
        ({"layer_types": ["linear_attention"] * 3 + ["full_attention"]}, "nnnf"),
        ({"layer_types": ["full_attention"] * 6, "num_kv_shared_layers": 2}, "ffff--"),
        ({"hybrid_override_pattern": "M-M*E-"}, "n-nf--"),
        ({"layer_types": ["indexed_attention"] * 2, "kv_lora_rank": 512}, "ff"),
        ({"layers_block_type": ["mamba", "moe", "attention", "mlp"]}, "n-f-"),
        ({"layers_block_type": ["mamba", "hybrid"]}, "nb"),
        ({"attn_layer_indices": [2, 5]}, "nnfnnf"),
        ({"full_attn_idxs": [2, 5]}, "nnfnnf"),
        ({"attn_layer_period": 3, "attn_layer_offset": 1}, "nfnnfn"),
        ({"attn_type_list": [0, 0, 1, 0, 0, 1]}, "nnfnnf"),
        ({"linear_attn_config": {"full_attn_layers": [3, 6]}}, "nnfnnf"),
        ({"model_type": "falcon_mamba"}, "nnnnnn"),
        ({"model_type": "falcon_h1"}, "bbbbbb"),
    ],
)
def test_which_layers_a_model_has(more, expected):
    """As each family says it: full, sliding, chunked, state (n), both, none."""
    letter = {"state": "n", "none": "-"}
    assert "".join(letter.get(kind, kind[0]) for kind in kinds(SMALL | more)) == expected


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SMALL | {"layer_types": ["a_new_one"]}, "its layers of type a_new_one are not known here"),
        (SMALL | {"hybrid_override_pattern": "MX"}, "hybrid_override_pattern has X"),
        (SMALL | {"layer_types": ["indexed_attention"]}, "index of its attention is not counted"),
        (SMALL | {"compress_ratios": [4]}, "config.json has compress_ratios, which is not counted"),
        (SMALL | {"block_configs": [{}]}, "config.json has block_configs, which is not counted"),
        (SMALL | {"attn_config": {"kv_n_heads": 8}}, "config.json has attn_config, which is not"),
        (SMALL | {"model_type": "minicpm3"}, "the cache of minicpm3 is not counted here"),
        (
            SMALL | {"sliding_window": 9, "sliding_window_pattern": "LLLG"},
            "sliding_window_pattern is no number",
        ),
        (SMALL | {"num_attention_heads": 0}, "has a value that makes no model .*zero"),
        (SMALL | {"layer_types": [["mamba"]]}, "has a value that makes no model .*unhashable"),
        (SMALL | {"attn_layer_period": 0.5, "attn_layer_offset": 0}, "value that makes no model"),
        (SMALL | {"per_layer_config": {"0": 3}}, "value that makes no model .*no attribute"),
        (SMALL | {"linear_attn_config": {"full_attn_layers": ["x"]}}, "value that makes no model"),
        ({"hidden_size": 1}, "has no num_hidden_layers or n_layer or num_layers or n_layers"),
    ],
)
def test_what_is_not_understood_is_not_guessed(config, said):
    """A dense model's memory would be a wrong answer."""
    with pytest.raises(ModelUnavailable, match=said):
        architecture(config)


def test_the_language_model_of_a_multimodal_one():
    """Its own numbers, not those of the eyes."""
    nested = {"vision_config": {"num_hidden_layers": 27}, "text_config": LLAMA_70B}
    assert architecture(nested) == architecture(LLAMA_70B)


@pytest.mark.parametrize(
    ("rope", "tokens"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 4096),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 1024),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 2048),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}, "model_type": "gemma3_text"}, 1024),
        ({"rope_scaling": None}, 1024),
    ],
)
def test_the_longest_context(rope, tokens):
    """As vLLM derives it: some ways of stretching are in the model's number already."""
    config = LLAMA_70B | {"max_position_embeddings": 1024} | rope
    if rope.get("model_type"):
        config |= {"sliding_window": 512}
    assert architecture(config).context_tokens == tokens


GEMMA_4 = {
    "model_type": "gemma4_text",
    "hidden_size": 2304,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 512,
}


@pytest.mark.parametrize(
    ("more", "heads", "head"),
    [
        ({}, 4, 512),
        ({"global_head_dim": 384}, 4, 384),
        ({"num_global_key_value_heads": 2, "attention_k_eq_v": True}, 2, 512),
        ({"num_global_key_value_heads": 2, "attention_k_eq_v": False}, 4, 512),
        ({"per_layer_config": {"01": {"head_dim": 384, "num_key_value_heads": 2}}}, 2, 384),
    ],
)
def test_layers_that_see_everything_may_have_heads_of_their_own(more, heads, head):
    """Gemma 4's, in the ways that it is written down."""
    model = architecture(GEMMA_4 | more)
    assert model.kv_bytes_per_token(at=512) == 2 * heads * head * 2
    assert model.kv_bytes(1) == 2 * heads * head * 2 + 2 * 4 * 256 * 2


FALCON = {"hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71}


@pytest.mark.parametrize(
    ("config", "kv_heads"),
    [
        (FALCON | {"multi_query": True}, 1),
        (FALCON | {"multi_query": True, "num_kv_heads": 71}, 1),
        (FALCON | {"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 8}, 8),
        (SMALL | {"multi_query_group_num": 2}, 2),
        (SMALL | {"num_attention_groups": 4}, 4),
        (SMALL | {"num_key_value_heads": None}, 8),
    ],
)
def test_how_many_heads_have_keys_of_their_own(config, kv_heads):
    """In the words of each family."""
    assert architecture(config).kv_heads == kv_heads


def test_what_a_published_configuration_leaves_out():
    """Gemma 3's says no more than what differs from the library's own defaults."""
    published = {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "sliding_window": 1024,
        },
        "vision_config": {"hidden_size": 1152},
    }
    model = architecture(published)
    per_layer = 2 * 4 * 256 * 2
    assert model.kv_bytes(8192) == (5 * 8192 + 29 * 1024) * per_layer
    assert (model.context_tokens, model.vocabulary) == (131072, 262208)


def test_a_window_that_is_longer_than_the_context_is_none():
    """Phi 3.5's, and its context without LongRoPE, which vLLM takes by itself."""
    phi = {
        "model_type": "phi3",
        "hidden_size": 3072,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "sliding_window": 262144,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
    }
    model = architecture(phi)
    assert model.kv_bytes_per_token(at=1 << 24) == 32 * 2 * 32 * 96 * 2
    assert (model.context_tokens, model.usual_tokens) == (131072, 4096)


@pytest.mark.parametrize(
    ("config", "used"),
    [
        ({"num_experts_per_tok": 8}, 8),
        ({"top_k_experts": 8}, 8),
        ({"moe_k": 6}, 6),
        ({"moe_topk": [2, 4, 8]}, 8),
        ({}, 1),
    ],
)
def test_how_many_experts_a_token_asks(config, used):
    """Where layers differ, the most."""
    assert architecture(SMALL | config).experts_used == used


MAMBA_2 = {
    "mamba_n_heads": 128,
    "mamba_d_head": 64,
    "mamba_n_groups": 8,
    "mamba_d_state": 128,
    "mamba_d_conv": 4,
}
JAMBA = {"hidden_size": 4096, "mamba_expand": 2, "mamba_d_state": 16, "mamba_d_conv": 4}
KIMI = {"num_heads": 32, "head_dim": 128, "short_conv_kernel_size": 4}
# What vLLM's calculator of that name is asked for the same model.
STATES = {
    "mamba 2": (MAMBA_2, "mamba2_state_shape", (1, 8192, 8, 128, 64, 128, 4), (2, 2)),
    "mamba 1": (JAMBA, "mamba1_state_shape", (1, 8192, 16, 4), (2, 2)),
    "delta net": (
        QWEN3_NEXT,
        "gated_delta_net_state_shape",
        (1, 16, 32, 128, 128, 4),
        (2, 4),
    ),
    "delta attention": ({"linear_attn_config": KIMI}, "kda_state_shape", (1, 32, 128), (2, 4)),
    "delta attention of transformers": (
        {"linear_num_heads": 32, "linear_head_dim": 128, "head_dim": 64},
        "kda_state_shape",
        (1, 32, 128),
        (2, 4),
    ),
    "lightning of transformers": (
        {"model_type": "minimax", "num_attention_heads": 64, "head_dim": 128, "hidden_size": 8192},
        "linear_attention_state_shape",
        (64, 1, 128),
        (2,),
    ),
    "lightning": (
        {"attn_type_list": [0], "num_attention_heads": 64, "head_dim": 128, "hidden_size": 6144},
        "linear_attention_state_shape",
        (64, 1, 128),
        (2,),
    ),
    "convolution": (
        {"conv_L_cache": 3, "hidden_size": 2048},
        "short_conv_state_shape",
        (1, 2048, 3),
        (2,),
    ),
}


@pytest.mark.parametrize(("config", "name", "asked", "widths"), STATES.values(), ids=STATES)
def test_a_state_is_as_large_as_the_engine_says(config, name, asked, widths):
    """vLLM's own shapes, for one GPU."""
    from math import prod

    from vllm.model_executor.layers.mamba.mamba_utils import MambaStateShapeCalculator

    shapes = getattr(MambaStateShapeCalculator, name)(*asked)
    expected = sum(prod(shape) * width for shape, width in zip(shapes, widths, strict=True))
    assert state_bytes(config) == expected


# ---- the tensors


def test_the_tensors_of_a_checkpoint():
    """Their sizes are the files', but for the headers."""
    folder = MODELS / f"{NAME}-bf16"
    tensors = in_folder(folder)
    file = folder / "model.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert sum(tensor.bytes for tensor in tensors) == file.stat().st_size - 8 - header
    embedding = next(t for t in tensors if t.name == "model.embed_tokens.weight")
    assert embedding == Tensor(embedding.name, "BF16", (49152, 576), 49152 * 576 * 2)


@pytest.mark.parametrize("content", [b"", b"\x05", b"\xff" * 100, (8).to_bytes(8, "little") + b"{"])
def test_a_file_that_is_none(tmp_path, content):
    """One sentence, with its name."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors is no safetensors file"):
        in_file(path)


# ---- the check at the start


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """An nvidia-smi that says how much memory each GPU has: there is no GPU here."""

    def make(*mib):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n" + "".join(f"echo {each}\n" for each in mib))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return make


def test_the_smallest_of_the_gpus_counts(gpu):
    """And nothing is said where nothing is known."""
    gpu(81559, 24564)
    assert memory_bytes(["0", "1"]) == 24564 << 20
    gpu("No devices were found")
    assert memory_bytes(["0"]) is None
    assert memory_bytes([]) is None


def a_checkpoint(folder, weights, dtype="BF16", name="w", **config):
    """Make one with a header and no weights behind it: the header is what is read."""
    (folder / "config.json").write_text(json.dumps(LLAMA_70B | config))
    count = weights // {"BF16": 2, "F32": 4}[dtype]
    entry = {"dtype": dtype, "shape": [count], "data_offsets": [0, weights]}
    header = json.dumps({name: entry}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


def demand(folder, **more):
    fields = {"gpus": 1, "tensor": 1, "parts": 1, "share": 0.9}
    fields |= {"share_setting": "GPU_MEMORY_UTILIZATION"}
    return Demand(name="org/m", folder=folder, **fields | more)


def test_weights_that_cannot_fit_are_refused(gpu, tmp_path):
    """With the numbers, and what to change."""
    gpu(81559)
    folder = a_checkpoint(tmp_path, 141_000_000_000)
    with pytest.raises(EngineStartFailed) as raised:
        fit.check(demand(folder), ["0"])
    assert str(raised.value) == (
        "org/m has 141.0 GB of weights, on a GPU of 85.5 GB, of which "
        "GPU_MEMORY_UTILIZATION=0.9 lets the engine take 77.0 GB: take 4 such GPUs "
        "(TENSOR_PARALLEL_SIZE=4), a larger one, or a checkpoint of fewer bits (AWQ, FP8)."
    )
    fit.check(demand(folder, gpus=4), ["0", "1", "2", "3"])


@pytest.mark.parametrize(
    ("weights", "dtype", "name", "refused"),
    [
        (78, "BF16", "w", False),
        (82, "BF16", "w", True),
        (150, "F32", "w", False),
        (170, "F32", "w", True),
        (82, "BF16", "model.visual.w", False),
    ],
)
def test_only_what_plainly_cannot_fit_is_refused(gpu, tmp_path, weights, dtype, name, refused):
    """Engines load 32 bits as 16, and may leave out a few layers, and the eyes."""
    gpu(81559)
    folder = a_checkpoint(tmp_path, weights * 10**9, dtype=dtype, name=name)
    if refused:
        with pytest.raises(EngineStartFailed):
            fit.check(demand(folder), ["0"])
    else:
        fit.check(demand(folder), ["0"])


def test_the_number_of_gpus_that_is_suggested_can_be_had(gpu, tmp_path):
    """Ten KV heads go over two or five, not over four; where nothing is set nothing is named."""
    gpu(16376)
    heads = {"num_attention_heads": 40, "num_key_value_heads": 10}
    folder = a_checkpoint(tmp_path, 20_000_000_000, **heads)
    with pytest.raises(EngineStartFailed) as raised:
        fit.check(demand(folder, share=1.0, share_setting=""), ["0"])
    assert str(raised.value) == (
        "org/m has 20.0 GB of weights, on a GPU of 17.2 GB: take 2 such GPUs "
        "(TENSOR_PARALLEL_SIZE=2), a larger one, or a checkpoint of fewer bits (AWQ, FP8)."
    )
    folder = a_checkpoint(tmp_path, 60_000_000_000, **heads)
    with pytest.raises(EngineStartFailed, match=r"GB: take a larger one, or a checkpoint"):
        fit.check(demand(folder, share=1.0, share_setting=""), ["0"])


def test_a_model_that_does_not_say_its_heads_is_left_to_the_engine(gpu, tmp_path):
    """What would have to be guessed refuses nothing."""
    gpu(81559)
    folder = a_checkpoint(tmp_path, 60_000_000_000, num_key_value_heads=None)
    fit.check(demand(folder, context_tokens=131072), ["0"])


def test_a_context_that_cannot_fit_is_refused(gpu, tmp_path):
    """Where the engine insists on room for one request of it; the largest that fits is named."""
    gpu(81559)
    folder = a_checkpoint(tmp_path, 70_000_000_000)
    for tokens in (0, 131072):
        with pytest.raises(EngineStartFailed) as raised:
            fit.check(demand(folder, context_tokens=tokens), ["0"])
        assert str(raised.value).endswith(
            "take 77.0 GB, and one request of 131072 tokens needs 42.9 GB of KV cache: set "
            "MAX_MODEL_LEN to at most 14592, or take a larger GPU, or more of them "
            "(TENSOR_PARALLEL_SIZE)."
        )
    fit.check(demand(folder, context_tokens=14592), ["0"])
    fit.check(demand(folder, context_tokens=29184, kv_element_bytes=1), ["0"])
    fit.check(demand(folder), ["0"])


def test_stages_share_the_cache_as_well(gpu, tmp_path):
    """Each has its own layers', also of a cache that has no heads to share."""
    gpu(81559)
    folder = a_checkpoint(tmp_path, 10_000_000_000, **DEEPSEEK_V3)
    tokens = 1_500_000  # 105 GB
    fit.check(demand(folder, parts=2, gpus=2, context_tokens=tokens), ["0"])
    with pytest.raises(EngineStartFailed, match=r"needs 105\.4 GB of KV cache"):
        fit.check(demand(folder, tensor=2, gpus=2, context_tokens=tokens), ["0"])


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 8}}, True),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, True),
        ({"quant_method": "fp8", "kv_cache_scheme": None}, False),
        ({}, False),
    ],
)
def test_a_checkpoint_may_bring_an_fp8_cache(tmp_path, quantization, expected):
    """In compressed-tensors' words, or ModelOpt's."""
    folder = a_checkpoint(tmp_path, 2, quantization_config=quantization)
    assert has_fp8_cache(folder) == expected


def test_the_largest_context_is_the_largest():
    """One step more does not fit."""
    model = architecture(LLAMA_70B)
    room = model.kv_bytes(21248 + 255)
    assert largest_context(model, room, 2, 1) == 21248
    assert largest_context(model, room - model.kv_bytes(255) - 1, 2, 1) == 21248 - 256


def test_a_kind_that_is_not_known_is_left_to_the_engine(gpu, tmp_path):
    """What is not counted is not refused."""
    gpu(81559)
    folder = a_checkpoint(tmp_path, 70_000_000_000, layer_types=["a_new_one"] * 80)
    fit.check(demand(folder, context_tokens=0), ["0"])


@pytest.mark.parametrize(
    ("environ", "refused"),
    [
        ({}, True),
        ({"TENSOR_PARALLEL_SIZE": "4", "MAX_MODEL_LEN": "4096"}, False),
        ({"TENSOR_PARALLEL_SIZE": "2"}, True),
        ({"TENSOR_PARALLEL_SIZE": "2", "PIPELINE_PARALLEL_SIZE": "2"}, False),
        ({"MAX_MODEL_LEN": "8192", "CPU_OFFLOAD_GB": "100"}, False),
        ({"QUANTIZATION": "fp8", "MAX_MODEL_LEN": "8192"}, False),
        ({"TENSOR_PARALLEL_SIZE": "4", "MAX_MODEL_LEN": "-1"}, False),
        ({"TENSOR_PARALLEL_SIZE": "2", "KV_CACHE_DTYPE": "int4_per_token_head"}, False),
        ({"TENSOR_PARALLEL_SIZE": "2", "KV_CACHE_DTYPE": "fp8", "MAX_MODEL_LEN": "32768"}, False),
        ({"TENSOR_PARALLEL_SIZE": "2", "KV_CACHE_MEMORY_BYTES": "1000000"}, False),
    ],
    ids=[
        *("as it is", "four", "two", "stages", "offloaded", "quantized while loading"),
        *("what fits", "four bits", "eight bits", "a cache of its own"),
    ],
)
def test_vllms_flags_say_what_has_to_fit(gpu, tmp_path, monkeypatch, environ, refused):
    """The real parser's; the CPU build is told that it runs on GPUs."""
    gpu(81559)
    monkeypatch.setattr(platform, "gpus", lambda environ: ["0"])
    folder = a_checkpoint(tmp_path, 141_000_000_000)
    if refused:
        with pytest.raises(EngineStartFailed, match=r"m.* has 141\.0 GB of weights"):
            check(folder, **environ)
    else:
        check(folder, **environ)
