"""`python -m builder plan`: what fits, from configuration and headers alone.

The models are headers without weights behind them, served by the small hub.
"""

import json
import subprocess
import sys
from dataclasses import replace
from math import prod

import pytest

from builder.errors import CheckpointRefused
from builder.plan.cards import COUNTS, Card, chosen, table
from builder.plan.estimate import Wanted, row
from builder.plan.source import Source
from builder.plan.weights import Weights, weights
from builder.presets import PRESETS
from handler.memory.architecture import architecture
from handler.memory.groups import Groups
from handler.model.safetensors import Tensor
from tests.support.environment import MODELS, NAME, ROOT, clean_environment, worker_environment
from tests.support.hub import TOKEN, Repository, running_hub
from tests.test_memory import DEEPSEEK_V3, LLAMA_70B

BYTES = {"BF16": 2, "I32": 4, "F8_E4M3": 1}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def llama_70b(dtype="BF16", packed=1, width=28672):
    """Names and shapes of all its tensors; `packed` weights are in one number of a linear one."""
    shapes = {"model.embed_tokens.weight": (128256, 8192), "lm_head.weight": (128256, 8192)}
    for n in range(80):
        layer = f"model.layers.{n}"
        for name, out, inputs in (
            *(("self_attn.q_proj", 8192, 8192), ("self_attn.o_proj", 8192, 8192)),
            *(("self_attn.k_proj", 1024, 8192), ("self_attn.v_proj", 1024, 8192)),
            *(("mlp.gate_proj", width, 8192), ("mlp.up_proj", width, 8192)),
            ("mlp.down_proj", 8192, width),
        ):
            shapes[f"{layer}.{name}.weight"] = (out, inputs // packed)
        shapes[f"{layer}.input_layernorm.weight"] = (8192,)
    kept = ("embed", "lm_head", "norm")
    return {
        name: ("BF16" if any(k in name for k in kept) else dtype, shape)
        for name, shape in shapes.items()
    }


def header(tensors):
    entries, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        end = at + prod(shape) * BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def a_repository(folder, config, tensors):
    """Write two shards of headers, and their index."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    names = list(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    index = {}
    for shard, half in zip(SHARDS, halves, strict=True):
        (folder / shard).write_bytes(header({name: tensors[name] for name in half}))
        index |= dict.fromkeys(half, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return Repository(folder)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("plan")
    fp8 = {"quantization_config": {"quant_method": "fp8"}}
    pickle = root / "pickle"
    pickle.mkdir()
    (pickle / "config.json").write_text(json.dumps(LLAMA_70B))
    (pickle / "pytorch_model.bin").write_bytes(b"pickle")
    odd = LLAMA_70B | {"layer_types": ["a_new_one"] * 80}
    scheme = {"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    cache = LLAMA_70B | {"quantization_config": scheme}
    eyes = LLAMA_70B | {"vision_config": {}}
    odder = LLAMA_70B | {"intermediate_size": 10976}
    wide = LLAMA_70B | {"intermediate_size": 29568}
    with running_hub(
        llama=a_repository(root / "llama", LLAMA_70B, llama_70b()),
        fp8=a_repository(root / "fp8", LLAMA_70B | fp8, llama_70b("F8_E4M3")),
        odd=a_repository(root / "odd", odd, {"a": ("BF16", (1,)), "b": ("BF16", (1,))}),
        cache=a_repository(root / "cache", cache, llama_70b("F8_E4M3")),
        **{"odd-width": a_repository(root / "wide", wide, llama_70b(width=29568))},
        **{"odder-width": a_repository(root / "odder", odder, llama_70b(width=10976))},
        eyes=a_repository(root / "eyes", eyes, llama_70b()),
        pickle=Repository(pickle),
        gated=Repository(root / "llama", gated=True),
    ) as running:
        yield running


def plan(hub, *arguments, **environ):
    environment = clean_environment(HF_ENDPOINT=hub.url, **environ)
    command = [sys.executable, "-m", "builder", "plan", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_a_plan_for_a_large_model(hub):
    """What fits, what it costs, and the environment to paste; no weights are fetched."""
    hub.asked.clear()
    code, out, err = plan(hub, "org/fp8", "--context", "16384", "--concurrency", "16")
    assert (code, err.count("\n")) == (0, err.count("fp8: "))
    assert out.splitlines()[:5] == [
        "model     org/fp8, commit 0123456789ab",
        "weights   72.66 GB, fp8",
        "layers    80 full; 64 heads, 8 for keys and values",
        "KV cache  327,680 bytes a token (16-bit), 0.671 GB a request of 2048 tokens",
        "context   16384 tokens of the model's 131072",
    ]
    h200 = next(line for line in out.splitlines() if "H200" in line)
    assert h200.split() == (
        "H200 (HOPPER_141) × 1 72.7 GB 3.6 GB 62.5 GB 131072 88 67 3259 0.476".split()
    )
    *_, environment, command = out.split("\n\n")
    assert command == (
        "As an endpoint:\npython -m builder deploy --image YOUR/IMAGE --model org/fp8 "
        "--gpu AMPERE_48 --gpu-count 2 --env MAX_MODEL_LEN=16384 --env MAX_NUM_SEQS=16 "
        "--env TENSOR_PARALLEL_SIZE=2\n"
    )
    assert environment.splitlines() == [
        "# AMPERE_48: 2 × A6000, A40, $0.00068 a second",
        "MODEL_NAME=org/fp8",
        "MAX_MODEL_LEN=16384",
        "MAX_NUM_SEQS=16",
        "TENSOR_PARALLEL_SIZE=2",
    ]
    fetched = [asked for asked in hub.asked if asked[1].endswith(".safetensors")]
    assert {asked[2] for asked in fetched if asked[0] == "GET"} == {"bytes=0-100000"}


def test_a_quantization_that_is_still_to_be_made(hub):
    """Linear weights shrink, the embedding and the last layer do not; it says how to make it."""
    code, out, _ = plan(hub, "org/llama", "--quantization", "awq", "--json")
    found = json.loads(out)
    linear = sum(prod(s) for n, (_, s) in llama_70b().items() if "proj" in n)
    kept = sum(2 * prod(s) for n, (_, s) in llama_70b().items() if "proj" not in n)
    assert code == 0
    assert found["weights"]["bytes"] == round(linear * (0.5 + 2.5 / 128) + kept)
    assert (found["weights"]["method"], found["weights"]["is_made"]) == ("awq", False)
    assert "python -m builder quantize org/llama --to awq --out FOLDER" in found["notes"][0]
    assert found["kv_bytes_per_token"] == 327_680
    assert len(found["rows"]) == len(table().cards) * len(COUNTS)


def test_what_is_to_be_pasted_is_what_was_planned(hub):
    """A placeholder for what is still to be made, and a disk that holds the weights."""
    _, out, _ = plan(hub, "org/llama", "--quantization", "awq", "--gpu", "A100")
    assert "\nMODEL_NAME=YOU/llama-awq\n" in out
    assert "--model YOU/llama-awq --gpu AMPERE_80 --env" in out.splitlines()[-1]
    _, out, _ = plan(hub, "org/llama", "--gpu", "B200")
    assert "--model org/llama --gpu BLACKWELL_180 --disk 200 --env" in out.splitlines()[-1]


def test_the_kv_cache_in_fp8(hub):
    """Half as large, and set in the environment."""
    code, out, _ = plan(hub, "org/fp8", "--kv-dtype", "fp8", "--gpu", "H200", "--json")
    found = json.loads(out)
    assert (code, found["kv_bytes_per_token"]) == (0, 163_840)
    assert found["environment"]["KV_CACHE_DTYPE"] == "fp8"
    assert [entry["gpus"] for entry in found["rows"]] == list(COUNTS)


def test_a_checkpoint_that_brings_an_fp8_cache(hub):
    """It is counted so, and nothing has to be set."""
    _, out, _ = plan(hub, "org/cache", "--gpu", "H200", "--json")
    found = json.loads(out)
    assert found["kv_bytes_per_token"] == 163_840
    assert "KV_CACHE_DTYPE" not in found["environment"]


def test_an_fp8_cache_on_cards_that_do_not_calculate_in_fp8(hub):
    """Of the other kind; beside weights in FP8 not at all."""
    _, out, _ = plan(
        hub, "org/llama", "--quantization", "awq", "--kv-dtype", "fp8", "--gpu", "A100", "--json"
    )
    assert json.loads(out)["environment"]["KV_CACHE_DTYPE"] == "fp8_e5m2"
    _, out, _ = plan(hub, "org/fp8", "--kv-dtype", "fp8", "--gpu", "A100")
    rows = [line for line in out.splitlines() if "A100" in line]
    assert all(line.endswith("no FP8: not for weights and KV cache both") for line in rows)


def test_what_the_builder_does_not_quantize_is_not_sent_there(hub):
    """A model that sees."""
    _, out, _ = plan(hub, "org/eyes", "--quantization", "fp8")
    assert "look for a quantized repository of it" in out
    assert "Make it first" not in out


def test_a_folder_is_no_model_for_an_endpoint(hub):
    """The last line says how it gets there."""
    _, out, _ = plan(hub, str(MODELS / f"{NAME}-awq"))
    assert out.splitlines()[-1] == (
        "An endpoint takes it from a repository, or baked into an image."
    )


def test_a_context_beyond_the_models_own(hub):
    """Planned as it was asked for, and said."""
    _, out, _ = plan(hub, "org/fp8", "--context", "200000", "--gpu", "B200")
    assert "200000 tokens are beyond the model's own 131072: the engine refuses them" in out
    assert "\nMAX_MODEL_LEN=131072\n" in out


def test_nothing_fits(hub):
    """The reason stands in each row."""
    code, out, _ = plan(hub, "org/llama", "--gpu", "4090", "--context", "131072")
    assert (code, out.splitlines()[-1]) == (0, "Nothing of this fits.")
    reasons = [line.rpartition("GB")[2].strip() for line in out.splitlines() if "4090" in line]
    assert reasons == ["no room for the weights"] * 3 + ["no room for 131072 tokens"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("org/nothing",), 3, "org/nothing: no such repository on the hub, or it is private"),
        (("models/no/such",), 2, "models/no/such is neither a folder nor a repository (org/name)."),
        (("org/gated",), 3, "org/gated: it is gated: accept its licence"),
        (("org/pickle",), 2, "org/pickle has no safetensors weights, whose headers"),
        (("org/odd",), 3, "org/odd: its layers of type a_new_one are not known here."),
        (("org/fp8", "--quantization", "awq"), 2, "org/fp8 is quantized as 'fp8', not awq: plan"),
        (("org/fp8", "--gpu", "RTX"), 2, "--gpu 'RTX': no such card. There are AMPERE_16"),
        (("org/fp8", "--gpu", "Z9"), 2, "--gpu 'Z9': no such card. There are AMPERE_16 (A4000"),
        (
            ("org/fp8", "--context", "100", "--tokens-per-request", "200"),
            2,
            "--tokens-per-request 200 is more than --context 100",
        ),
    ],
)
def test_what_cannot_be_planned(hub, arguments, code, said):
    """One sentence on stderr, and no table."""
    found, out, err = plan(hub, *arguments)
    assert (found, out) == (code, "")
    assert err.splitlines()[-1].startswith(f"plan: {said}")


def test_a_gated_model_is_read_with_a_token(hub):
    """From the environment, and nowhere else."""
    assert plan(hub, "org/gated", HF_TOKEN=TOKEN)[0] == 0


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_number_that_is_none(hub, value):
    """Argparse says which argument."""
    code, _, err = plan(hub, "org/fp8", "--context", value)
    assert (code, err.splitlines()[-1]) == (
        2,
        f"python -m builder plan: error: argument --context: {value!r} must be a whole "
        "number from 1 up",
    )


# ---- the arithmetic

LARGE = Card("P", "large", 100 * 1024, 1000, 0.001, True)
MODEL = architecture(LLAMA_70B)
WEIGHTS = Weights(40_000_000_000, 0, 0, "awq", True)
WANTED = Wanted(context_tokens=8192, request_tokens=2048)


def test_a_row():
    """Memory, requests, speed and price, each from the one before."""
    made = row(MODEL, WEIGHTS, WANTED, LARGE, 1)
    assert made.kv_cache == int(100 * 2**30 * 0.92) - made.weights - made.reserve
    held = made.kv_cache // (2048 * 327_680)
    assert (made.weights, made.sequences) == (40_000_000_000, held // 8 * 8)
    read = 40e9 + made.sequences * 2048 * 327_680
    assert made.tokens_per_second == made.sequences * 1e12 / read
    assert made.stream_tokens_per_second == 1e12 / (40e9 + 2048 * 327_680)
    assert made.dollars_per_million_tokens == 0.001 / made.tokens_per_second * 1e6
    assert made.why_not is None


@pytest.mark.parametrize(
    ("model", "wanted", "gpus", "why"),
    [
        (LLAMA_70B | {"num_attention_heads": 28}, WANTED, 8, "28 heads do not divide by 8"),
        (
            LLAMA_70B | {"num_attention_heads": 24, "num_key_value_heads": 6},
            WANTED,
            4,
            "24 heads, 6 for keys and values, do not divide by 4",
        ),
        (LLAMA_70B, Wanted(200_000, 2048), 1, "no room for 200000 tokens"),
        (LLAMA_70B, Wanted(8192, 8192, 100), 1, "room for 20 of 100 requests"),
    ],
)
def test_why_it_does_not_fit(model, wanted, gpus, why):
    """What the engine would refuse as well."""
    assert row(architecture(model), WEIGHTS, wanted, LARGE, gpus).why_not == why


def test_a_quantized_layer_that_cannot_be_split():
    """Nor is what only cards with FP8 could split, or keep."""
    odd = architecture(LLAMA_70B | {"intermediate_size": 29568})
    groups = replace(WEIGHTS, groups=Groups(128))
    assert row(odd, groups, WANTED, LARGE, 1).why_not is None
    why_not = row(odd, groups, WANTED, LARGE, 2).why_not
    assert why_not == "groups of 128 do not divide 29568 / 2"
    wanted, old = replace(WANTED, kv_element_bytes=1), replace(LARGE, has_fp8=False)
    why_not = "no FP8: not for the KV cache of this attention"
    for config in (DEEPSEEK_V3, *(LLAMA_70B | {"model_type": m} for m in ("gpt_oss", "gemma3"))):
        model = architecture(config)
        assert row(model, WEIGHTS, wanted, LARGE, 1).why_not is None
        assert row(model, WEIGHTS, wanted, old, 1).why_not == why_not
    assert row(MODEL, WEIGHTS, wanted, old, 1).why_not is None


def test_groups_that_are_still_to_be_made():
    """Those that `quantize` takes, what they add, and widths that have none."""
    for width, size in ((256, 128), (96, 32)):
        tensor = Tensor("model.layers.0.self_attn.q_proj.weight", "BF16", (64, width), 128 * width)
        made = weights(Source("m", "", {}, (tensor,), None), "awq")
        assert (made.groups, made.bytes) == (
            Groups(size),
            64 * width // 2 + 64 * width // size * 5 // 2,
        )
    conv = Tensor("model.layers.0.conv.conv.weight", "BF16", (64, 1, 3), 384)
    assert weights(Source("m", "", {}, (conv,), None), "awq").bytes == 384
    narrow = Source("m", "", {}, (Tensor("a.q_proj.weight", "BF16", (64, 40), 5120),), None)
    with pytest.raises(CheckpointRefused) as raised:
        weights(narrow, "awq")
    assert str(raised.value) == (
        "m cannot be quantized as awq: a.q_proj.weight has 40 inputs, which do not divide into "
        "groups of 128 or 32. Choose --quantization fp8."
    )


def test_smaller_groups_are_advised_where_they_would_help(hub):
    """Only for a checkpoint that is still to be made."""
    advice = "AWQ's groups of 128 cannot be split over every number of GPUs. Smaller ones"
    _, out, _ = plan(hub, "org/odd-width", "--quantization", "awq")
    assert advice in out
    assert "× 8" not in out
    assert advice not in plan(hub, "org/llama", "--quantization", "awq")[1]
    out = plan(hub, "org/odder-width", "--quantization", "awq")[1]
    assert "Smaller ones" not in out
    assert "× 8" not in out


def test_a_mixture_reads_the_experts_that_are_asked():
    """One request those of a token, many requests all of them."""
    mixture = Weights(100, 80, 4, "fp8", True)
    assert mixture.read_bytes(1, 8, 2) == 100 - 4 - 80 * 0.75
    assert mixture.read_bytes(100, 8, 2) == pytest.approx(96)
    assert WEIGHTS.read_bytes(1, 1, 1) == 40_000_000_000


def test_what_is_quantized_and_what_is_not():
    """Experts are; routers, norms, embeddings and eyes are not."""
    names = {
        "model.embed_tokens.weight": 2.0,
        "model.layers.0.mlp.gate.weight": 2.0,
        "model.layers.0.mlp.experts.0.up_proj.weight": 1.0,
        "model.layers.0.block_sparse_moe.input_linear.weight": 1.0,
        "model.layers.0.self_attn.q_proj.weight": 1.0,
        "model.visual.blocks.0.attn.qkv.weight": 2.0,
        "lm_head.weight": 2.0,
    }
    for name, width in names.items():
        source = Source("m", "", {}, (Tensor(name, "BF16", (8, 16), 256),), None)
        assert weights(source, "fp8").bytes == 128 * width, name
    for name in ("l.experts.0.w", "l.block_sparse_moe.output_linear.weight"):
        experts = Source("m", "", {}, (Tensor(name, "BF16", (8, 16), 256),), None)
        assert weights(experts, "auto").expert_bytes == 256


def test_a_latent_cache_is_not_shared_by_gpus():
    """So that more of them hold hardly more requests."""
    model = architecture(DEEPSEEK_V3 | {"max_position_embeddings": 163840})
    wanted = Wanted(context_tokens=8192, request_tokens=8192)
    one, two = (row(model, WEIGHTS, wanted, LARGE, gpus) for gpus in (1, 2))
    of_request = 8192 * 61 * 576 * 2
    assert [one.sequences, two.sequences] == [
        each.kv_cache // of_request // 8 * 8 for each in (one, two)
    ]


def test_the_pools_of_the_presets_are_in_the_table():
    """A plan's pool is one that the Hub's form knows as well."""
    pools = {card.pool for card in table().cards}
    assert {pool for preset in PRESETS for pool in preset.gpu_pools} <= pools


@pytest.mark.parametrize(
    ("wanted", "pools"),
    [
        ("H100", ["ADA_80_PRO"]),
        ("rtx 4090", ["ADA_24"]),
        ("ada_48_pro", ["ADA_48_PRO"]),
        ("6000", ["ADA_48_PRO", "BLACKWELL_96"]),
        ("6000 Ada", ["ADA_48_PRO"]),
        ("A40", ["AMPERE_48"]),
    ],
)
def test_a_card_is_named_as_people_do(wanted, pools):
    """By pool, or by words of its name."""
    assert [card.pool for card in chosen(table().cards, wanted)] == pools


# ---- against the engine


def test_the_engine_counts_the_same_cache():
    """vLLM's blocks in 64 MiB are as many as our bytes of a token allow."""
    environ = worker_environment(
        "awq", KV_CACHE_MEMORY_BYTES=str(64 << 20), MAX_MODEL_LEN="2048", VLLM_LOGGING_LEVEL="ERROR"
    )
    job = json.dumps({"input": {"route": "/metrics"}})
    command = [sys.executable, "-m", "handler", "--test_input", job]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    line = next(each for each in done.stdout.splitlines() if "vllm:cache_config_info{" in each)
    labels = dict(part.split("=", 1) for part in line.split("{")[1].split("}")[0].split(","))
    block, blocks = (int(labels[name].strip('"')) for name in ("block_size", "num_gpu_blocks"))
    config = json.loads((MODELS / f"{NAME}-awq" / "config.json").read_text())
    of_block = architecture(config).kv_bytes(block)
    assert (block, blocks) == (128, (64 << 20) // of_block)
