"""`python -m builder.fetch` gets a checkpoint whole, pinned and verified, or says why not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.errors import CheckpointRefused
from builder.order import Order, check
from handler.model.hub_files import select_files
from handler.model.manifest import Manifest
from tests.hub import COMMIT, TOKEN, Fault, Repository, running_hub
from tests.support.environment import ROOT, clean_environment

AWQ = {"quantization_config": {"quant_method": "awq"}}
PIECE_BYTES = 10 * 1024 * 1024  # what huggingface-hub writes at once
SHARDS = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def repository(folder: Path, config=AWQ, **files: str | bytes) -> Path:
    """A folder with a configuration, a tokenizer and what is given; `__` in a name is a dot."""
    folder.mkdir()
    files = {"config__json": json.dumps(config), "tokenizer__json": "{}", **files}
    for name, content in files.items():
        path = folder / name.replace("__", ".").replace("_in_", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    weights = os.urandom(24_000_000)
    awq = repository(root / "awq", model__safetensors=weights, LICENSE="words")
    plain = repository(root / "plain", config={}, model__safetensors=b"weights")
    gptq = {"quantization_config": {"quant_method": "gptq"}}
    with running_hub(
        awq=Repository(awq),
        gated=Repository(awq, gated=True, licence=None),
        private=Repository(awq, private=True),
        plain=Repository(plain),
        gptq=Repository(repository(root / "gptq", config=gptq, model__safetensors=b"weights")),
        pickle=Repository(
            repository(root / "pickle", pytorch_model__bin=b"pickle", optimizer__pt=b"pickle")
        ),
        lost=Repository(
            repository(
                root / "lost",
                model__safetensors__index__json=json.dumps({"weight_map": SHARDS}),
                **{SHARDS["a"].replace(".", "__"): b"weights"},
            )
        ),
        broken=Repository(repository(root / "broken", config__json="{", model__safetensors=b"w")),
        gguf=Repository(repository(root / "gguf", model__gguf=b"gguf")),
        empty=Repository(repository(root / "empty")),
        sharded=Repository(
            repository(
                root / "sharded",
                **{name.replace(".", "__"): name.encode() for name in SHARDS.values()},
                model__safetensors__index__json=json.dumps({"weight_map": SHARDS}),
                consolidated__safetensors=b"the same weights again",
                pytorch_model__bin=b"the same weights again",
                pytorch_model__bin__index__json="{}",
                original_in_consolidated__pth=b"the same weights again",
                original_in_params__json="{}",
                onnx_in_model__json="{}",
                chat_template__jinja="{{ messages }}",
                configuration_x__py="pass",
                README__md="words",
            )
        ),
    ) as server:
        yield server


def start(hub_url, *arguments, **environ):
    return subprocess.Popen(
        [sys.executable, "-m", "builder.fetch", *map(str, arguments)],
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


def test_a_checkpoint_and_its_manifest(tmp_path, hub):
    """Everything that was asked for, found and checked, is in the manifest."""
    out = tmp_path / "model"
    code, printed, said = fetch(hub.url, "org/awq", "--out", out)
    assert (code, printed) == (0, str(out))
    assert said == (
        "4 files, 24.0 MB, every checksum is right; quantization awq, licence apache-2.0"
    )
    manifest = Manifest.model_validate_json((out / "manifest.json").read_bytes())
    assert manifest.model_dump(exclude={"files", "fetched"}) == {
        "repository": "org/awq",
        "revision": "main",
        "commit": COMMIT,
        "kind": "model",
        "patterns": (),
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


def test_a_finished_folder_is_kept_and_a_damaged_one_is_not(tmp_path, hub):
    """At the same commit nothing is fetched; what is missing is noticed."""
    out = tmp_path / "model"
    fetch(hub.url, "org/awq", "--out", out)
    asked = len(hub.asked)
    code, _, said = fetch(hub.url, "org/awq", "--out", out)
    assert (code, said) == (0, f"{out} is at commit {COMMIT}, nothing to do")
    [(_, path, _)] = [request for request in hub.asked[asked:] if "org" in request[1]]
    assert path == "/api/models/org/awq/revision/main"  # which commit the branch is
    (out / "tokenizer.json").unlink()
    code, _, said = fetch(hub.url, "org/awq", "--out", out)
    assert (code, names(out) >= {"tokenizer.json"}) == (0, True)


def test_another_order_is_fetched_again(tmp_path, hub):
    """A folder is kept only if it is what was asked for; its quantization is compared again."""
    out = tmp_path / "model"
    fetch(hub.url, "org/awq", "--out", out)
    asked = len(hub.asked)
    assert fetch(hub.url, "org/awq", "--out", out, ALLOW_PATTERNS="*.json,*.saf*")[0] == 0
    assert any(path.endswith(".safetensors") for _, path, _ in hub.asked[asked:])
    fetch(hub.url, "org/awq", "--out", out)
    code, _, said = fetch(hub.url, "org/awq", "--out", out, QUANTIZATION="fp8")
    assert (code, said[:41]) == (2, "QUANTIZATION=fp8 contradicts the checkpoint:"[:41])


def test_a_folder_of_something_else_is_left_alone(tmp_path, hub):
    """A wrong --out costs nobody anything."""
    (tmp_path / "precious.txt").write_text("words")
    code, _, said = fetch(hub.url, "org/awq", "--out", tmp_path)
    assert (code, said) == (
        2,
        f"{tmp_path} is something else: choose another --out, or remove it.",
    )
    code, _, _ = fetch(hub.url, "org/awq", "--out", tmp_path / "precious.txt")
    assert (code, (tmp_path / "precious.txt").read_text()) == (2, "words")
    fetch(hub.url, "org/plain", "--kind", "draft", "--out", tmp_path / "m")
    advice = "choose another --out, or remove it."
    for arguments in (["org/awq"], ["org/plain", "--kind", "tokenizer"]):
        code, _, said = fetch(hub.url, *arguments, "--out", tmp_path / "m")
        assert (code, said) == (2, f"{tmp_path}/m holds org/plain as a draft: {advice}")
    (tmp_path / "m/mine.txt").write_text("words")
    code, _, said = fetch(hub.url, "org/plain", "--kind", "draft", "--out", tmp_path / "m")
    what = "has files that were not fetched, such as mine.txt"
    assert (code, said) == (2, f"{tmp_path}/m {what}: {advice}")


def test_only_what_the_engine_loads_is_fetched(tmp_path, hub):
    """Both shards of the index; nothing in another format, nothing twice."""
    fetch(hub.url, "org/sharded", "--out", tmp_path / "m")
    assert names(tmp_path / "m") == {
        *SHARDS.values(),
        "model.safetensors.index.json",
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "configuration_x.py",
        "manifest.json",
    }


def test_a_tokenizer_and_a_draft(tmp_path, hub):
    """The first without weights, the second without a quantization."""
    fetch(hub.url, "org/plain", "--kind", "tokenizer", "--out", tmp_path / "t")
    assert names(tmp_path / "t") == {"config.json", "tokenizer.json", "manifest.json"}
    code, _, _ = fetch(hub.url, "org/plain", "--kind", "draft", "--out", tmp_path / "d")
    assert (code, "model.safetensors" in names(tmp_path / "d")) == (0, True)


def test_the_token_opens_a_gated_repository(tmp_path, hub):
    """A build has it as a secret, which the image's tests try."""
    code, _, said = fetch(hub.url, "org/gated", "--out", tmp_path / "m", HF_TOKEN=TOKEN)
    assert (code, said.rpartition("; ")[2]) == (0, "quantization awq, licence unknown")


@pytest.mark.parametrize("token", ["hf_secret\nhf_other", "hf_secret hf_other", "hf_sécret"])
def test_a_token_that_is_none_is_said_without_showing_it(tmp_path, hub, token):
    """It would be in the header that the client cannot send, and so in its message."""
    process = start(hub.url, "org/awq", "--out", tmp_path / "m", HF_TOKEN=token)
    out, log = process.communicate(timeout=60)
    assert (process.returncode, out, log) == (
        2,
        "",
        "fetch: HF_TOKEN should be one word without spaces or line breaks.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "message"),
    [
        (
            ("org/gated",),
            {},
            3,
            "org/gated: it is gated: accept its licence on the hub and set HF_TOKEN.",
        ),
        (
            ("org/private",),
            {},
            3,
            "org/private: no such repository on the hub, or it is private and HF_TOKEN gives "
            "no access.",
        ),
        (
            ("org/awq",),
            {"HF_TOKEN": "hf_wrong"},
            3,
            "org/awq: the hub answered 401: HF_TOKEN is not valid.",
        ),
        (
            ("org/awq", "--revision", "v9"),
            {},
            3,
            "org/awq has no revision 'v9' (MODEL_REVISION).",
        ),
        (
            ("a/b/c",),
            {},
            2,
            "MODEL_NAME='a/b/c' must be the name of a repository (org/name).",
        ),
        (
            ("a/b/c", "--kind", "tokenizer"),
            {},
            2,
            "TOKENIZER_NAME='a/b/c' must be the name of a repository (org/name).",
        ),
        (
            ("org/plain",),
            {},
            2,
            "org/plain is not quantized: choose a quantized repository (its name often ends in "
            "-AWQ or -FP8; on the hub, open the model's page and look under Quantizations), make "
            "one (python -m builder quantize), or set QUANTIZATION=none to take it as it is.",
        ),
        (
            ("org/gptq",),
            {},
            2,
            "org/gptq is quantized as 'gptq', which is neither AWQ nor FP8. QUANTIZATION=gptq "
            "takes it.",
        ),
        (
            ("org/awq", "--quantization", "fp8"),
            {},
            2,
            "QUANTIZATION=fp8 contradicts the checkpoint: org/awq is quantized as 'awq'.",
        ),
        (
            ("org/pickle",),
            {},
            2,
            "org/pickle has its weights only as pickle (pytorch_model.bin), and loading pickle can "
            "run any code: choose a repository with safetensors, or allow it by name with "
            "ALLOW_PATTERNS='pytorch_model*.bin *.json *.txt *.model'.",
        ),
        (
            ("org/gguf",),
            {},
            2,
            "org/gguf has only GGUF weights: choose one with safetensors.",
        ),
        (("org/empty",), {}, 2, "org/empty has no weights."),
        (
            ("org/lost",),
            {},
            2,
            "org/lost has no model-00002-of-00002.safetensors, which its index names.",
        ),
        (("org/broken",), {}, 2, "org/broken: config.json cannot be read."),
        (
            ("org/sharded", "--allow-patterns", "*.json model-00001*"),
            {},
            2,
            "org/sharded has no model-00002-of-00002.safetensors that ALLOW_PATTERNS lets through, "
            "which its index names.",
        ),
        (
            ("org/pickle", "--allow-patterns", "*"),
            {},
            2,
            "org/pickle has no weights that ALLOW_PATTERNS lets through.",
        ),
        (
            ("org/awq", "--allow-patterns", "*.safetensors"),
            {},
            2,
            "org/awq has no config.json that ALLOW_PATTERNS lets through: no engine can load it.",
        ),
        (
            ("org/awq", "--allow-patterns", "*.json"),
            {},
            2,
            "org/awq has no weights that ALLOW_PATTERNS lets through.",
        ),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_sentence(
    tmp_path, hub, arguments, environ, code, message
):
    """With its exit code, and nothing is left behind; no weights were asked for."""
    asked = len(hub.asked)
    done = fetch(hub.url, *arguments, "--out", tmp_path / "m", **environ)
    assert done == (code, "", message)
    assert names(tmp_path) <= {".m.lock"}
    assert not any(path.endswith((".safetensors", ".bin")) for _, path, _ in hub.asked[asked:])


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
def test_what_is_allowed_by_name_is_fetched(tmp_path, hub, repository, arguments):
    """An empty value is what a build argument without a value gives."""
    assert fetch(hub.url, repository, *arguments, "--out", tmp_path / "m")[0] == 0
    assert len(names(tmp_path / "m")) > 2


@pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
def test_a_broken_connection_is_resumed(tmp_path, hub, reset):
    """Twice in the middle of the weights; after an end, what had arrived is not fetched again."""
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
        assert ranges == [None, f"bytes={PIECE_BYTES}-", f"bytes={2 * PIECE_BYTES}-"]


@pytest.mark.parametrize("path", ["revision/main", "config.json", "model.safetensors"])
def test_a_hub_that_fails_for_a_while_is_asked_again(tmp_path, hub, path):
    """The listing, a small file and the weights."""
    hub.faults[:] = [Fault(path, times=2, status=500)]
    assert fetch(hub.url, "org/awq", "--out", tmp_path / "m")[0] == 0
    assert hub.faults[0].times == 0


def test_a_hub_that_fails_for_long_is_said(tmp_path, hub):
    """After some patience, and nothing is left behind."""
    hub.faults[:] = [Fault("revision/main", times=99, status=503)]
    done = fetch(hub.url, "org/awq", "--out", tmp_path / "m")
    hub.faults.clear()
    assert done == (3, "", "org/awq: the hub answered 503: try again later.")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_fetched_once_more(tmp_path, hub, name, times):
    """Large files have a sha256 to compare with, small ones git's checksum."""
    hub.faults[:] = [Fault(name, times=times, damage=True)]
    code, _, said = fetch(hub.url, "org/awq", "--out", tmp_path / "m")
    hub.faults.clear()
    source = hub.repositories["org/awq"]
    checksum = source.checksum(name)
    if times == 1:
        assert code == 0
        assert (tmp_path / "m" / name).read_bytes() == (source.folder / name).read_bytes()
        return
    assert code == 4
    assert said.startswith(f"org/awq/{name} is damaged: the hub says ")
    assert f" bytes with {checksum}, " in said
    assert names(tmp_path) == {".m.lock"}


def test_no_hub_at_all(tmp_path):
    """Nothing answers on this port."""
    assert fetch("http://127.0.0.1:9", "org/awq", "--out", tmp_path / "m") == (
        3,
        "",
        "org/awq: the hub at http://127.0.0.1:9 cannot be reached.",
    )


def test_too_little_space_is_said_before_the_weights_are_fetched(tmp_path, hub, monkeypatch):
    """With what is needed and what is missing."""
    code = (
        "import shutil, sys\n"
        "from collections import namedtuple\n"
        "shutil.disk_usage = lambda _: namedtuple('usage', 'free')(100_000)\n"
        "from builder.fetch import main\n"
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


def test_a_place_that_cannot_be_written_is_said(hub):
    """An OSError, with its file."""
    code, _, said = fetch(hub.url, "org/awq", "--out", "/proc/models/m")
    assert (code, said) == (4, "/proc/models: No such file or directory")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_the_middle_of_a_file_leaves_nothing(tmp_path, hub, number):
    """As when a build is cancelled: it does not wait for the rest of the weights."""
    hub.faults[:] = [Fault("model.safetensors", after_bytes=20_000_000, pause_seconds=300)]
    process = start(hub.url, "org/awq", "--out", tmp_path / "m")
    deadline = time.monotonic() + 60
    while hub.faults[0].times:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, log = process.communicate(timeout=30)
    hub.faults.clear()
    assert (process.returncode, log.splitlines()[-1]) == (1, "fetch: interrupted")
    assert names(tmp_path) == {".m.lock"}


@pytest.mark.parametrize(
    ("there", "shards", "chosen"),
    [
        (["model.safetensors", "model.fp16.safetensors"], None, ["model.safetensors"]),
        (["a.safetensors", "b.safetensors", "consolidated.safetensors"], None, ["a.", "b."]),
        (["consolidated.safetensors", "params.json"], None, ["consolidated.", "params.json"]),
        (["1_Pooling/config.json", "2_Dense/model.safetensors"], None, ["1_Po", "2_De"]),
        (["fp16/model.safetensors", "unet/x.bin", "model.onnx"], None, []),
        (["LICENSE", "NOTICE.txt", "README.md", ".gitattributes"], None, ["LICENSE", "NOTICE"]),
        (["tokenizer.model", "tekken.json", "x.tiktoken"], None, ["tek", "tok", "x."]),
        (["model.safetensors.index.json", "x.safetensors"], {"y.safetensors"}, ["model.safet"]),
    ],
)
def test_the_choice_of_files(there, shards, chosen):
    """By names alone; each is given by how it begins."""
    found = select_files("model", there, shards)
    assert [name[: len(start)] for name, start in zip(found, chosen, strict=True)] == chosen
    assert not any(name.endswith(".safetensors") for name in select_files("tokenizer", there))


@pytest.mark.parametrize(
    ("asked", "found", "taken"),
    [
        ("auto", "awq", True),
        ("auto", "compressed-tensors-fp8", True),
        ("auto", "compressed-tensors-int4", True),
        ("auto", "fp8", True),
        ("auto", "modelopt-fp8", True),
        ("auto", "gptq", False),
        ("auto", "bitsandbytes", False),
        ("auto", None, False),
        ("none", None, True),
        ("none", "awq", False),
        ("awq", "awq", True),
        ("awq", None, False),
        ("fp8", None, False),
        ("fp8", "modelopt-fp8", True),
        ("compressed-tensors", "compressed-tensors-int4", True),
    ],
)
def test_what_a_quantization_takes(asked, found, taken):
    """`auto` is AWQ or FP8 in any container."""
    order = Order("org/name", quantization=asked)
    if taken:
        check(order, found)
        return
    with pytest.raises(CheckpointRefused, match="org/name"):
        check(order, found)
