"""`python -m builder plan` against a local hub: what fits, from config.json and headers alone."""

import json
import subprocess
import sys
from math import prod

import pytest

from builder.plan.estimate import GPU_COUNTS
from handler.gpu_pools import load_gpu_table
from tests.support.environment import MODELS, NAME, ROOT, clean_environment
from tests.support.header_checkpoints import safetensors_header
from tests.support.hub import TOKEN, Repository, running_hub
from tests.support.model_configs import LLAMA_70B

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
KEPT = ("embed", "lm_head", "norm")


def llama_70b_tensors(dtype="BF16", width=28672):
    """Return the type and shape of each tensor of Llama 70B, by name."""
    shapes = {"model.embed_tokens.weight": (128256, 8192), "lm_head.weight": (128256, 8192)}
    linear = {
        "self_attn.q_proj": (8192, 8192),
        "self_attn.o_proj": (8192, 8192),
        "self_attn.k_proj": (1024, 8192),
        "self_attn.v_proj": (1024, 8192),
        "mlp.gate_proj": (width, 8192),
        "mlp.up_proj": (width, 8192),
        "mlp.down_proj": (8192, width),
    }
    for number in range(80):
        layer = f"model.layers.{number}"
        shapes |= {f"{layer}.{name}.weight": shape for name, shape in linear.items()}
        shapes[f"{layer}.input_layernorm.weight"] = (8192,)
    return {
        name: ("BF16" if any(kept in name for kept in KEPT) else dtype, shape)
        for name, shape in shapes.items()
    }


def write_repository(folder, config, tensors):
    """Write two shards of headers, and their index."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    names = list(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    index = {}
    for shard, half in zip(SHARDS, halves, strict=True):
        (folder / shard).write_bytes(safetensors_header({name: tensors[name] for name in half}))
        index |= dict.fromkeys(half, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return Repository(folder)


def mistral_folder(folder):
    """Write a checkpoint in Mistral's own format, of FP8 weights and no config.json."""
    folder.mkdir()
    params = {"dim": 4096, "n_layers": 1, "head_dim": 128, "hidden_dim": 8192, "n_heads": 32}
    params |= {"n_kv_heads": 8, "vocab_size": 1024, "max_position_embeddings": 4096}
    params |= {"quantization": {"qformat_weight": "fp8_e4m3"}}
    (folder / "params.json").write_text(json.dumps(params))
    tensors = {"tok_embeddings.weight": ("BF16", (1024, 4096))}
    tensors["layers.0.feed_forward.w1.weight"] = ("F8_E4M3", (8192, 4096))
    (folder / "consolidated.safetensors").write_bytes(safetensors_header(tensors))
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("plan")
    pickle = root / "pickle"
    pickle.mkdir()
    (pickle / "config.json").write_text(json.dumps(LLAMA_70B))
    (pickle / "pytorch_model.bin").write_bytes(b"pickle")

    def repository(name, tensors, **fields):
        return write_repository(root / name, LLAMA_70B | fields, tensors)

    cache_scheme = {"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    repositories = {
        "llama": repository("llama", llama_70b_tensors()),
        "fp8": repository(
            "fp8", llama_70b_tensors("F8_E4M3"), quantization_config={"quant_method": "fp8"}
        ),
        "fp8-cache": repository(
            "fp8-cache", llama_70b_tensors("F8_E4M3"), quantization_config=cache_scheme
        ),
        "unknown-layers": repository(
            "unknown-layers",
            {"a": ("BF16", (1,)), "b": ("BF16", (1,))},
            layer_types=["a_new_one"] * 80,
        ),
        "width-29568": repository(
            "width-29568", llama_70b_tensors(width=29568), intermediate_size=29568
        ),
        "width-10976": repository(
            "width-10976", llama_70b_tensors(width=10976), intermediate_size=10976
        ),
        "multimodal": repository("multimodal", llama_70b_tensors(), vision_config={}),
        "pickle": Repository(pickle),
        "mistral": Repository(mistral_folder(root / "mistral")),
        "gated": Repository(root / "llama", gated=True),
    }
    with running_hub(**repositories) as running:
        yield running


def plan(hub, *arguments, **environ):
    """Run the command; return its exit code and what it wrote on stdout and stderr."""
    environment = clean_environment(HF_ENDPOINT=hub.url, **environ)
    command = [sys.executable, "-m", "tests.support.patient", "builder", "plan", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_the_plan_of_a_large_model_names_gpus_costs_and_environment(hub):
    hub.asked.clear()
    code, out, err = plan(hub, "org/fp8", "--context", "16384", "--concurrency", "16")
    assert (code, err.count("\n")) == (0, err.count("fp8: "))
    assert out.splitlines()[:5] == [
        "model     org/fp8, commit 0123456789ab",
        "weights   72.66 GB, fp8",
        "layers    80 full attention; 64 attention heads, 8 KV heads",
        "KV cache  327,680 bytes per token (16 bits), 0.671 GB per request of 2048 tokens",
        "context   16384 tokens; the model's own is 131072",
    ]
    h200 = next(line for line in out.splitlines() if "H200" in line)
    assert h200.split() == (
        "H200 (HOPPER_141) × 1 72.7 GB 3.6 GB 62.5 GB 131072 88 67 3259 0.505".split()
    )
    *_, environment, command = out.split("\n\n")
    assert command == (
        "To deploy it as an endpoint:\npython -m builder deploy --image YOUR/IMAGE --model org/fp8 "
        "--gpu AMPERE_48 --gpu-count 2 --env MAX_MODEL_LEN=16384 --env MAX_NUM_SEQS=16 "
        "--env TENSOR_PARALLEL_SIZE=2\n"
    )
    assert environment.splitlines() == [
        "# AMPERE_48: 2 × A6000, A40, $0.00068 per second",
        "MODEL_NAME=org/fp8",
        "MAX_MODEL_LEN=16384",
        "MAX_NUM_SEQS=16",
        "TENSOR_PARALLEL_SIZE=2",
    ]


def test_only_the_headers_of_weights_are_downloaded(hub):
    hub.asked.clear()
    plan(hub, "org/fp8")
    fetched = [asked for asked in hub.asked if asked[1].endswith(".safetensors")]
    assert {asked[2] for asked in fetched if asked[0] == "GET"} == {"bytes=0-100000"}


def test_an_unquantized_model_is_planned_after_quantization(hub):
    code, out, _ = plan(hub, "org/llama", "--quantization", "awq", "--json")
    found = json.loads(out)
    tensors = llama_70b_tensors().items()
    linear = sum(prod(shape) for name, (_, shape) in tensors if "proj" in name)
    kept = sum(2 * prod(shape) for name, (_, shape) in tensors if "proj" not in name)
    assert code == 0
    assert found["weights"]["bytes"] == round(linear * (0.5 + 2.5 / 128) + kept)
    assert (found["weights"]["method"], found["weights"]["is_published"]) == ("awq", False)
    assert "python -m builder quantize org/llama --to awq --out FOLDER" in found["notes"][0]
    assert found["kv_bytes_per_token"] == 327_680
    assert len(found["estimates"]) == len(load_gpu_table().pools) * len(GPU_COUNTS)


def test_a_model_that_is_still_to_be_quantized_has_a_placeholder_name(hub):
    _, out, _ = plan(hub, "org/llama", "--quantization", "awq", "--gpu", "A100")
    assert "\nMODEL_NAME=YOU/llama-awq\n" in out
    assert "--model YOU/llama-awq --gpu AMPERE_80 --env" in out.splitlines()[-1]


def test_the_deploy_command_asks_for_a_disk_that_holds_the_weights(hub):
    _, out, _ = plan(hub, "org/llama", "--gpu", "B200")
    assert "--model org/llama --gpu BLACKWELL_180 --disk 200 --env" in out.splitlines()[-1]


def test_an_fp8_kv_cache_is_half_as_large_and_set_in_the_environment(hub):
    code, out, _ = plan(hub, "org/fp8", "--kv-dtype", "fp8", "--gpu", "H200", "--json")
    found = json.loads(out)
    assert (code, found["kv_bytes_per_token"]) == (0, 163_840)
    assert found["environment"]["KV_CACHE_DTYPE"] == "fp8"
    assert [estimate["gpus"] for estimate in found["estimates"]] == list(GPU_COUNTS)


def test_an_fp8_kv_cache_of_the_checkpoint_needs_no_setting(hub):
    _, out, _ = plan(hub, "org/fp8-cache", "--gpu", "H200", "--json")
    found = json.loads(out)
    assert found["kv_bytes_per_token"] == 163_840
    assert "KV_CACHE_DTYPE" not in found["environment"]


def test_gpus_without_fp8_take_an_e5m2_cache_but_not_beside_fp8_weights(hub):
    _, out, _ = plan(
        hub, "org/llama", "--quantization", "awq", "--kv-dtype", "fp8", "--gpu", "A100", "--json"
    )
    assert json.loads(out)["environment"]["KV_CACHE_DTYPE"] == "fp8_e5m2"
    _, out, _ = plan(hub, "org/fp8", "--kv-dtype", "fp8", "--gpu", "A100")
    rows = [line for line in out.splitlines() if "A100" in line]
    assert len(rows) == len(GPU_COUNTS)
    assert all(row.endswith("no FP8: weights and KV cache cannot both be FP8") for row in rows)


def test_a_multimodal_model_is_not_sent_to_builder_quantize(hub):
    _, out, _ = plan(hub, "org/multimodal", "--quantization", "fp8")
    assert "look for a quantized repository of it" in out
    assert "Quantize it first" not in out


def test_mistrals_own_format_is_planned_from_its_params(hub):
    _, out, _ = plan(hub, "org/mistral", "--gpu", "H100")
    assert out.splitlines()[1:5] == [
        "weights   0.04 GB, fp8",
        "layers    1 full attention; 32 attention heads, 8 KV heads",
        "KV cache  4,096 bytes per token (16 bits), 0.008 GB per request of 2048 tokens",
        "context   4096 tokens; the model's own is 4096",
    ]


def test_a_folder_has_to_get_into_a_repository_or_an_image_first(hub):
    _, out, _ = plan(hub, str(MODELS / f"{NAME}-awq"))
    assert out.splitlines()[-1] == (
        "To deploy it, upload this folder to the hub, or copy it to a network volume."
    )


def test_a_context_beyond_the_models_own_is_planned_with_a_note(hub):
    _, out, _ = plan(hub, "org/fp8", "--context", "200000", "--gpu", "B200")
    assert "200000 tokens are more than the model's own 131072: the engine refuses them" in out
    assert "\nMAX_MODEL_LEN=131072\n" in out


def test_each_row_says_why_nothing_fits(hub):
    code, out, _ = plan(hub, "org/llama", "--gpu", "4090", "--context", "131072")
    assert (code, out.splitlines()[-1]) == (0, "No GPU fits.")
    reasons = [line.rpartition("GB")[2].strip() for line in out.splitlines() if "4090" in line]
    assert reasons == ["no room for the weights"] * 3 + ["no room for 131072 tokens"]


def test_smaller_groups_are_suggested_only_where_they_can_help(hub):
    note = "AWQ's groups of 128 cannot be split over every number of GPUs. Smaller groups"
    _, out, _ = plan(hub, "org/width-29568", "--quantization", "awq")
    assert note in out
    assert "× 8" not in out
    assert note not in plan(hub, "org/llama", "--quantization", "awq")[1]
    out = plan(hub, "org/width-10976", "--quantization", "awq")[1]
    assert "Smaller groups" not in out
    assert "× 8" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["org/nothing"], 3, "org/nothing: no such repository on the hub, or it is private"),
        (
            ["models/no/such"],
            2,
            "models/no/such is neither a folder nor a repository (org/name).",
        ),
        (["org/gated"], 3, "org/gated: it is gated: accept its licence"),
        (["org/pickle"], 2, "org/pickle has no safetensors weights, and only their headers"),
        (
            ["org/unknown-layers"],
            3,
            "org/unknown-layers: config.json has unknown layer types: a_new_one.",
        ),
        (
            ["org/fp8", "--quantization", "awq"],
            2,
            "org/fp8 is quantized as 'fp8', not awq: leave --quantization out",
        ),
        (["org/fp8", "--gpu", "Z9"], 2, "--gpu 'Z9': unknown GPU or pool. Known are AMPERE_16"),
        (
            ["org/fp8", "--context", "100", "--tokens-per-request", "200"],
            2,
            "--tokens-per-request 200 must not be more than --context 100",
        ),
    ],
    ids=[
        "not on the hub",
        "no folder",
        "gated",
        "no safetensors",
        "unknown layers",
        "another quantization",
        "unknown GPU",
        "request longer than the context",
    ],
)
def test_a_model_that_cannot_be_planned_is_one_line_on_stderr(hub, arguments, code, message):
    found, out, err = plan(hub, *arguments)
    assert (found, out) == (code, "")
    assert err.splitlines()[-1].startswith(f"plan: {message}")


def test_a_gated_model_is_read_with_a_token(hub):
    assert plan(hub, "org/gated", HF_TOKEN=TOKEN)[0] == 0


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_an_invalid_number_is_refused_with_its_argument(hub, value):
    code, _, err = plan(hub, "org/fp8", "--context", value)
    assert (code, err.splitlines()[-1]) == (
        2,
        f"python -m builder plan: error: argument --context: {value!r} must be a whole "
        "number from 1 up",
    )
