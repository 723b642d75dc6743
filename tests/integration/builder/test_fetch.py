"""`python -m builder.fetch` downloads a checkpoint, verifies it, or says why it cannot."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from handler.model.manifest import Manifest
from tests.support.environment import ROOT, clean_environment
from tests.support.header_checkpoints import safetensors_header
from tests.support.hub import COMMIT, TOKEN, Fault, Repository, running_hub

AWQ = {"quantization_config": {"quant_method": "awq"}}
GPTQ = {"quantization_config": {"quant_method": "gptq"}}
WRITE_BYTES = 10 * 1024 * 1024  # what huggingface-hub writes at once
SECRET = (
    " (docker build takes it as a secret: --secret id=HF_TOKEN,env=HF_TOKEN; a --build-arg is not "
    "read)"
)
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}})


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")

    def repository(name, files, config=AWQ, **options):
        folder = root / name
        files = {"config.json": json.dumps(config), "tokenizer.json": "{}", **files}
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())
        return Repository(folder, **options)

    awq = repository("awq", {"model.safetensors": os.urandom(24_000_000), "LICENSE": "words"})
    unused = dict.fromkeys(
        [
            "consolidated.safetensors",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "original/consolidated.pth",
            "original/params.json",
            "onnx/model.json",
            "README.md",
        ],
        "{}",
    )
    weights = {"model.safetensors": b"weights"}
    with running_hub(
        awq=awq,
        gated=Repository(awq.folder, gated=True, licence=None),
        private=Repository(awq.folder, private=True),
        plain=repository("plain", weights, config={}),
        gptq=repository("gptq", weights, config=GPTQ),
        pickle=repository("pickle", {"pytorch_model.bin": b"pickle", "optimizer.pt": b"pickle"}),
        lost=repository("lost", {"model.safetensors.index.json": INDEX, SHARDS[0]: b"weights"}),
        broken=repository("broken", {"config.json": "{", **weights}),
        gguf=repository("gguf", {"model.gguf": b"gguf"}),
        empty=repository("empty", {}),
        adapter=repository(
            "adapter",
            {
                "adapter_config.json": '{"r": 8, "base_model_name_or_path": "org/large"}',
                "adapter_model.safetensors": safetensors_header(
                    {"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": ("F32", [])}
                ),
            },
        ),
        dora=repository(
            "dora",
            {
                "adapter_config.json": '{"r": 8, "use_dora": true}',
                "adapter_model.safetensors": safetensors_header({}),
            },
        ),
        sharded=repository(
            "sharded",
            {
                **{name: name for name in SHARDS},
                "model.safetensors.index.json": INDEX,
                "chat_template.jinja": "{{ messages }}",
                "configuration_x.py": "pass",
                **unused,
            },
        ),
    ) as server:
        yield server


def start(hub_url, *arguments, **environ):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.patient", "builder.fetch", *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(HF_ENDPOINT=hub_url, **environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fetch(hub_url, *arguments, **environ):
    """Run the command; return its exit code, its output and the last line of its log."""
    process = start(hub_url, *arguments, **environ)
    out, log = process.communicate(timeout=120)
    return process.returncode, out.strip(), log.strip().splitlines()[-1].removeprefix("fetch: ")


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_the_manifest_describes_every_fetched_and_verified_file(tmp_path, hub):
    out = tmp_path / "model"
    code, printed, last_line = fetch(hub.url, "org/awq", "--out", out)
    assert (code, printed) == (0, str(out))
    assert last_line == (
        "4 files, 24.0 MB, all checksums match; quantization awq, licence apache-2.0"
    )
    manifest = Manifest.model_validate_json((out / "manifest.json").read_bytes())
    assert manifest.model_dump(exclude={"files", "fetched"}) == {
        "repository": "org/awq",
        "revision": "main",
        "commit": COMMIT,
        "kind": "model",
        "patterns": (),
        "mistral_requested": False,
        "quantization": "awq",
        "licence": "apache-2.0",
        "total_bytes": sum(file.bytes for file in manifest.files),
    }
    source = hub.repositories["org/awq"]
    assert {f.path for f in manifest.files} == set(source.names())
    for file in manifest.files:
        content = (source.folder / file.path).read_bytes()
        assert ((out / file.path).read_bytes(), file.bytes) == (content, len(content))
    by_path = {file.path: file.sha256 for file in manifest.files}
    assert by_path["model.safetensors"] == source.checksum("model.safetensors")
    assert sorted(tmp_path.iterdir()) == [tmp_path / ".model.lock", out]


def test_a_copied_url_is_fetched_under_the_repositorys_name(tmp_path, hub):
    out = tmp_path / "model"
    page = "https://huggingface.co/org/awq/tree/main"
    assert fetch(hub.url, page, "--out", out)[0] == 0
    manifest = Manifest.model_validate_json((out / "manifest.json").read_bytes())
    assert (manifest.repository, manifest.revision) == ("org/awq", "main")


def test_a_finished_folder_is_kept_at_the_same_commit_unless_a_file_is_missing(tmp_path, hub):
    out = tmp_path / "model"
    fetch(hub.url, "org/awq", "--out", out)
    asked = len(hub.asked)
    code, _, last_line = fetch(hub.url, "org/awq", "--out", out)
    assert (code, last_line) == (0, f"{out} is at commit {COMMIT}, nothing to do")
    paths = {path for _, path, _ in hub.asked[asked:] if "org" in path}
    assert paths == {"/api/models/org/awq/revision/main"}  # which commit the branch is
    (out / "tokenizer.json").unlink()
    code, _, last_line = fetch(hub.url, "org/awq", "--out", out)
    assert (code, names(out) >= {"tokenizer.json"}) == (0, True)


def test_other_patterns_are_fetched_again_and_another_quantization_is_refused(tmp_path, hub):
    out = tmp_path / "model"
    fetch(hub.url, "org/awq", "--out", out)
    asked = len(hub.asked)
    assert fetch(hub.url, "org/awq", "--out", out, ALLOW_PATTERNS="*.json,*.saf*")[0] == 0
    assert any(path.endswith(".safetensors") for _, path, _ in hub.asked[asked:])
    fetch(hub.url, "org/awq", "--out", out)
    code, _, last_line = fetch(hub.url, "org/awq", "--out", out, QUANTIZATION="fp8")
    assert (code, last_line[:41]) == (2, "QUANTIZATION=fp8 contradicts the checkpoint:"[:41])


def test_a_folder_with_other_content_is_not_replaced(tmp_path, hub):
    (tmp_path / "precious.txt").write_text("words")
    code, _, last_line = fetch(hub.url, "org/awq", "--out", tmp_path)
    assert (code, last_line) == (
        2,
        f"{tmp_path} was not made by this command: choose another --out, or remove it.",
    )
    code, _, _ = fetch(hub.url, "org/awq", "--out", tmp_path / "precious.txt")
    assert (code, (tmp_path / "precious.txt").read_text()) == (2, "words")
    fetch(hub.url, "org/plain", "--kind", "draft", "--out", tmp_path / "m")
    advice = "choose another --out, or remove it."
    for arguments in (["org/awq"], ["org/plain", "--kind", "tokenizer"]):
        code, _, last_line = fetch(hub.url, *arguments, "--out", tmp_path / "m")
        assert (code, last_line) == (2, f"{tmp_path}/m holds org/plain as a draft: {advice}")
    (tmp_path / "m/mine.txt").write_text("words")
    code, _, last_line = fetch(hub.url, "org/plain", "--kind", "draft", "--out", tmp_path / "m")
    what = "has files that are not in its manifest, such as mine.txt"
    assert (code, last_line) == (2, f"{tmp_path}/m {what}: {advice}")


def test_only_files_that_an_engine_loads_are_fetched(tmp_path, hub):
    fetch(hub.url, "org/sharded", "--out", tmp_path / "m")
    assert names(tmp_path / "m") == {
        *SHARDS,
        "model.safetensors.index.json",
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "configuration_x.py",
        "manifest.json",
    }


def test_a_tokenizer_has_no_weights_and_a_draft_may_be_unquantized(tmp_path, hub):
    fetch(hub.url, "org/plain", "--kind", "tokenizer", "--out", tmp_path / "t")
    assert names(tmp_path / "t") == {"config.json", "tokenizer.json", "manifest.json"}
    code, _, _ = fetch(hub.url, "org/plain", "--kind", "draft", "--out", tmp_path / "d")
    assert (code, "model.safetensors" in names(tmp_path / "d")) == (0, True)


def test_an_adapter_that_no_engine_serves_with_the_model_is_refused(tmp_path, hub):
    """In the build, as at the start."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"num_hidden_layers": 2}')
    weights = {"model.layers.1.self_attn.q_proj.weight": ("BF16", [8, 8])}
    (base / "model.safetensors").write_bytes(safetensors_header(weights))
    kind = ("--kind", "lora", "--out", tmp_path / "lora")
    assert fetch(hub.url, *kind, LORA_MODULES="a=org/adapter")[0] == 0
    code, _, line = fetch(hub.url, *kind, "--base", base, LORA_MODULES="a=org/adapter")
    assert (code, line) == (
        2,
        "LORA_MODULES: org/adapter cannot be served: it has a layer 9, and the model has 2 layers "
        "(it was trained on org/large).",
    )
    code, _, line = fetch(hub.url, *kind, LORA_MODULES="b=org/dora")
    assert (code, line) == (
        2,
        "LORA_MODULES: org/dora cannot be served: the engines do not implement DoRA (use_dora).",
    )


def test_the_token_opens_a_gated_repository(tmp_path, hub):
    code, _, last_line = fetch(hub.url, "org/gated", "--out", tmp_path / "m", HF_TOKEN=TOKEN)
    assert (code, last_line.rpartition("; ")[2]) == (0, "quantization awq, licence unknown")


@pytest.mark.parametrize("token", ["hf_secret\nhf_other", "hf_secret hf_other", "hf_sécret"])
def test_an_invalid_token_is_refused_without_showing_it(tmp_path, hub, token):
    process = start(hub.url, "org/awq", "--out", tmp_path / "m", HF_TOKEN=token)
    out, log = process.communicate(timeout=60)
    assert (process.returncode, out, log) == (
        2,
        "",
        "fetch: HF_TOKEN must be one word without spaces or line breaks.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "message"),
    [
        (
            "org/gated",
            {},
            3,
            f"org/gated: it is gated: accept its licence on the hub and set HF_TOKEN{SECRET}.",
        ),
        (
            "org/private",
            {},
            3,
            "org/private: no such repository on the hub, or it is private and HF_TOKEN gives no "
            f"access{SECRET}.",
        ),
        (
            "org/awq",
            {"HF_TOKEN": "hf_wrong"},
            3,
            f"org/awq: the hub answered 401: HF_TOKEN is not valid{SECRET}.",
        ),
        ("org/awq --revision v9", {}, 3, "org/awq has no revision 'v9' (MODEL_REVISION)."),
        (
            "a/b/c",
            {},
            2,
            "MODEL_NAME='a/b/c' must be the name of a repository (org/name), "
            "and there is no such local folder.",
        ),
        (
            "a/b/c --kind tokenizer",
            {},
            2,
            "TOKENIZER_NAME='a/b/c' must be the name of a repository (org/name), "
            "and there is no such local folder.",
        ),
        (
            "org/plain",
            {},
            2,
            "org/plain is not quantized: choose a quantized repository (its name often ends in "
            "-AWQ or -FP8; on the hub, open the model's page and look under Quantizations), make "
            "one (python -m builder quantize), or set QUANTIZATION=none to use it unquantized.",
        ),
        (
            "org/gptq",
            {},
            2,
            "org/gptq is quantized as 'gptq', which is neither AWQ nor FP8. QUANTIZATION=gptq "
            "accepts it.",
        ),
        (
            "org/awq --quantization fp8",
            {},
            2,
            "QUANTIZATION=fp8 contradicts the checkpoint: org/awq is quantized as 'awq'.",
        ),
        (
            "org/pickle",
            {},
            2,
            "org/pickle has its weights only as pickle (pytorch_model.bin), and loading pickle can "
            "run any code: choose a repository with safetensors, or allow it by name with "
            "ALLOW_PATTERNS='pytorch_model*.bin *.json *.txt *.model'.",
        ),
        ("org/gguf", {}, 2, "org/gguf has only GGUF weights: choose one with safetensors."),
        ("org/empty", {}, 2, "org/empty has no weights."),
        (
            "org/lost",
            {},
            2,
            "org/lost has no model-00002-of-00002.safetensors, but its index lists that file.",
        ),
        ("org/broken", {}, 2, "org/broken: config.json cannot be read."),
        (
            "org/sharded",
            {"ALLOW_PATTERNS": "*.json model-00001*"},
            2,
            "org/sharded has no model-00002-of-00002.safetensors that matches ALLOW_PATTERNS, "
            "but its index lists that file.",
        ),
        (
            "org/pickle --allow-patterns *",
            {},
            2,
            "org/pickle has no weights that match ALLOW_PATTERNS.",
        ),
        (
            "org/awq --allow-patterns *.safetensors",
            {},
            2,
            "org/awq has no config.json that matches ALLOW_PATTERNS: every engine needs it, or "
            "Mistral's params.json with consolidated.safetensors.",
        ),
        (
            "org/awq --allow-patterns *.json",
            {},
            2,
            "org/awq has no weights that match ALLOW_PATTERNS.",
        ),
    ],
)
def test_a_refusal_is_one_line_before_any_weights_are_fetched(
    tmp_path, hub, arguments, environ, code, message
):
    before = len(hub.asked)
    done = fetch(hub.url, *arguments.split(), "--out", tmp_path / "m", **environ)
    assert done == (code, "", message)
    assert names(tmp_path) <= {".m.lock"}
    assert not any(path.endswith((".safetensors", ".bin")) for _, path, _ in hub.asked[before:])


@pytest.mark.parametrize(
    ("repository", "arguments"),
    [
        ("org/plain", ["--quantization", "none"]),
        ("org/gptq", ["--quantization", "gptq"]),
        ("org/awq", ["--quantization", "AWQ"]),
        ("org/awq", ["--quantization", ""]),
        ("org/pickle", ["--allow-patterns", "pytorch_model.bin,*.json"]),
    ],
)
def test_a_checkpoint_that_the_arguments_allow_is_fetched(tmp_path, hub, repository, arguments):
    assert fetch(hub.url, repository, *arguments, "--out", tmp_path / "m")[0] == 0
    assert len(names(tmp_path / "m")) > 2


@pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
def test_a_broken_connection_is_resumed_where_it_ended(tmp_path, hub, reset):
    hub.faults[:] = [Fault("model.safetensors", times=2, after_bytes=11_000_000, reset=reset)]
    asked = len(hub.asked)
    process = start(hub.url, "org/awq", "--out", tmp_path / "m")
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "signature" not in log  # of the address from which large files come
    ranges = [
        r
        for method, path, r in hub.asked[asked:]
        if (method, path[:5]) == ("GET", "/cdn/") and path.endswith("model.safetensors")
    ]
    assert len(ranges) == 3
    if not reset:
        assert ranges == [None, f"bytes={WRITE_BYTES}-", f"bytes={2 * WRITE_BYTES}-"]


@pytest.mark.parametrize("path", ["revision/main", "config.json", "model.safetensors"])
def test_a_hub_that_fails_twice_is_asked_again(tmp_path, hub, path):
    hub.faults[:] = [Fault(path, times=2, status=500)]
    assert fetch(hub.url, "org/awq", "--out", tmp_path / "m")[0] == 0
    assert hub.faults[0].times == 0


def test_a_hub_that_keeps_failing_is_one_line_and_leaves_nothing(tmp_path, hub):
    hub.faults[:] = [Fault("revision/main", times=99, status=503)]
    done = fetch(hub.url, "org/awq", "--out", tmp_path / "m")
    hub.faults.clear()
    assert done == (3, "", "org/awq: the hub answered 503: try again later.")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_with_a_wrong_checksum_is_downloaded_once_more(tmp_path, hub, name, times):
    hub.faults[:] = [Fault(name, times=times, damage=True)]
    code, _, last_line = fetch(hub.url, "org/awq", "--out", tmp_path / "m")
    hub.faults.clear()
    source = hub.repositories["org/awq"]
    checksum = source.checksum(name)
    if times == 1:
        assert code == 0
        assert (tmp_path / "m" / name).read_bytes() == (source.folder / name).read_bytes()
        return
    assert code == 4
    assert last_line.startswith(f"org/awq/{name} is damaged: the hub has ")
    assert f" bytes with checksum {checksum}, got " in last_line
    assert names(tmp_path) == {".m.lock"}


def test_a_hub_that_cannot_be_reached_is_named(tmp_path):
    assert fetch("http://127.0.0.1:9", "org/awq", "--out", tmp_path / "m") == (
        3,
        "",
        "org/awq: the hub at http://127.0.0.1:9 cannot be reached, "
        "and there is no such local folder.",
    )


def test_too_little_space_is_reported_before_the_weights_are_fetched(tmp_path, hub, monkeypatch):
    code = (
        "import shutil, sys\n"
        "from collections import namedtuple\n"
        "shutil.disk_usage = lambda _: namedtuple('usage', 'total free')(10**12, 100_000)\n"
        "from builder.fetch.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "org/awq", "--out", str(tmp_path / "m")],
        cwd=ROOT,
        env=clean_environment(HF_ENDPOINT=hub.url),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(
        "fetch: org/awq needs 0.0 GB more on the disk of "
    )
    assert names(tmp_path) == {".m.lock"}


def test_a_folder_that_cannot_be_written_is_named(hub):
    code, _, last_line = fetch(hub.url, "org/awq", "--out", "/proc/models/m")
    assert (code, last_line) == (4, "/proc/models: No such file or directory")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_a_download_ends_it_at_once_and_leaves_nothing(tmp_path, hub, number):
    fault = Fault("model.safetensors", after_bytes=20_000_000, pause_seconds=300)
    hub.faults[:] = [fault]
    process = start(hub.url, "org/awq", "--out", tmp_path / "m")
    assert fault.began.wait(240)
    process.send_signal(number)
    _, log = process.communicate(timeout=60)
    hub.faults.clear()
    assert (process.returncode, log.splitlines()[-1]) == (1, "fetch: interrupted")
    assert names(tmp_path) == {".m.lock"}
