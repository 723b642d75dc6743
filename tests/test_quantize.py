"""`python -m builder quantize` makes an unquantized model into FP8 or AWQ, or says why not."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from builder.errors import CheckpointRefused, InvalidArgument
from builder.quantize import base, data, source
from builder.quantize.base import Base
from builder.quantize.card import card
from builder.quantize.recipe import Recipe, group_size
from builder.quantize.result import Result, Written
from builder.quantize.source import Source
from builder.quantize.windows import shuffled, windows
from handler.model.checkpoint import quantization_of
from handler.model.manifest import Manifest, read_manifest
from tests.checkpoints import tiny_llama
from tests.hub import COMMIT, Repository, running_hub
from tests.support.environment import (
    MODELS,
    NAME,
    ROOT,
    clean_environment,
    worker_command,
    worker_environment,
)

PYTHON = ROOT / ".venv-quantize/bin/python"
DEMO = MODELS / f"{NAME}-bf16"
HELD_OUT = ROOT / "builder/quantize/held_out.txt"
CAPITALS = {
    **{"Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon"},
    **{"Poland": "Warsaw", "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm"},
    **{"Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo", "Kenya": "Nairobi"},
    **{"Peru": "Lima", "Chile": "Santiago", "Cuba": "Havana", "Canada": "Ottawa"},
}
CHATS = [
    [
        {"role": "user", "content": f"What is the capital of {country}?"},
        {"role": "assistant", "content": f"The capital of {country} is {city}."},
    ]
    for country, city in CAPITALS.items()
]
CHAT = CHATS[0]
SMALL = ("--samples", "8", "--sequence-length", "128", "--grid", "4")
PARIS = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}


def start(*arguments, python=PYTHON, cwd=ROOT, **environ):
    environment = clean_environment(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), **environ)
    return subprocess.Popen(
        [str(python), "-m", "builder", "quantize", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def quantize(*arguments, **options):
    """Run the command; return its exit code, its output and the lines of its log."""
    process = start(*arguments, **options)
    out, log = process.communicate(timeout=300)
    return process.returncode, out, [line.removeprefix("quantize: ") for line in log.splitlines()]


def rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def chats(tmp_path_factory):
    """Lines of JSON: chats, and paragraphs of the text that the builder brings."""
    texts = [{"text": text} for text in data.documents(HELD_OUT)]
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    return rows(path, *({"messages": chat} for chat in CHATS), *texts)


@pytest.fixture(scope="session")
def made(tmp_path_factory, chats):
    """The demo model in both methods: the folder, its manifest, and what the command said."""
    root = tmp_path_factory.mktemp("made")

    def make(method):
        folder = root / method
        if method not in done:
            more = ("--dataset", chats, *SMALL) if method == "awq" else ()
            code, out, log = quantize(DEMO, "--to", method, "--out", folder, *more)
            assert (code, out) == (0, f"{folder}\n"), log
            done[method] = (folder, read_manifest(folder), log)
        return done[method]

    done: dict[str, tuple[Path, Manifest, list[str]]] = {}
    return make


@pytest.mark.parametrize(
    ("method", "quantization", "layers", "said"),
    [
        ("fp8", "compressed-tensors-fp8", "210 layers are quantized; reading them back", "fp8"),
        ("awq", "compressed-tensors-int4", "210 layers in groups of 32 inputs, 8 samples", "awq"),
    ],
    ids=["fp8", "awq"],
)
def test_the_demo_model(made, method, quantization, layers, said):
    """The manifest has every file and its checksum, the card the perplexities that were printed."""
    folder, manifest, log = made(method)
    assert layers in log
    assert (manifest.kind, manifest.repository) == ("model", said)  # the demo is of no hub
    assert (manifest.quantization, manifest.licence) == (quantization, "apache-2.0")
    assert quantization_of(folder) == quantization
    there = {path.name for path in folder.iterdir()}
    assert there == {file.path for file in manifest.files} | {"manifest.json"}
    assert {"LICENSE", "README.md", "quantize.json", "model.safetensors"} <= there
    assert "recipe.json" not in there
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == ["lm_head"]
    before, after = (float(line.split()[1]) for line in log[-2:])
    text = (folder / "README.md").read_text()
    assert f"| before | {before:.3f} |\n| after | {after:.3f} (" in text
    # Rounding cannot make another model of it: one that lost its scales is off by thousands.
    assert before / 2 < after < before * 2
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (DEMO / name).read_bytes()
    assert [path.name for path in folder.parent.glob(f".{method}*")] == [f".{method}.lock"]


@pytest.mark.parametrize("method", ["fp8", "awq"])
def test_the_worker_serves_it(made, method):
    """The real vLLM takes it for what it is, without a setting."""
    folder, _, _ = made(method)
    job = json.dumps({"input": PARIS | {"max_tokens": 8, "temperature": 0}})
    done = subprocess.run(
        [*worker_command("vllm"), "--test_input", job],
        cwd=ROOT,
        env=worker_environment(MODEL_NAME=str(folder), VLLM_LOGGING_LEVEL="ERROR"),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "The capital of France is Paris" in done.stdout


def test_a_finished_folder_is_kept_and_another_is_not_touched(made):
    """The same recipe has nothing to do; another, and files of somebody's own, are refused."""
    folder, manifest, _ = made("fp8")
    ask = (DEMO, "--to", "fp8", "--out", folder)
    code, out, log = quantize(*ask)
    assert (code, out, log[-1]) == (0, f"{folder}\n", f"{folder} is finished, nothing to do")
    advice = "choose another --out, or remove it."
    code, _, log = quantize(*ask, "--sequence-length", "100")
    what = "was made with sequence tokens 512, not 100"
    assert (code, log[-1]) == (2, f"{folder} {what}: {advice}")
    mine = folder / "mine.txt"
    mine.touch()
    code, _, log = quantize(*ask)
    mine.unlink()
    what = "has files that were not made, such as mine.txt"
    assert (code, log[-1]) == (2, f"{folder} {what}: {advice}")
    assert read_manifest(folder) == manifest


def test_a_model_and_a_data_set_of_the_hub(tmp_path):
    """Both are fetched at a commit; of the data set one file, here in Parquet."""
    tiny = tiny_llama(tmp_path / "tiny")
    texts = tmp_path / "texts"
    texts.mkdir()
    rows(texts / "test.jsonl", {"text": "not this one"})
    table = {"text": data.documents(HELD_OUT)}
    program = "import sys, json, pyarrow as a, pyarrow.parquet as p; "
    program += "p.write_table(a.table(json.load(sys.stdin)), sys.argv[1])"
    subprocess.run(
        [str(PYTHON), "-c", program, str(texts / "train.parquet")],
        input=json.dumps(table),
        text=True,
        check=True,
    )
    with running_hub(tiny=Repository(tiny, licence="mit"), texts=Repository(texts)) as hub:
        code, out, log = quantize(
            *("org/tiny", "--to", "awq", "--dataset", "org/texts", *SMALL),
            cwd=tmp_path,
            HF_ENDPOINT=hub.url,
            HF_HOME=str(tmp_path / "home"),
        )
    assert (code, out) == (0, "models/tiny-awq\n"), log
    manifest = read_manifest(tmp_path / "models/tiny-awq")
    assert (manifest.repository, manifest.commit, manifest.licence) == ("org/tiny", COMMIT, "mit")
    assert read_manifest(tmp_path / "models/tiny").quantization is None
    assert not hub.ranges("test.jsonl")
    text = (tmp_path / "models/tiny-awq/README.md").read_text()
    assert "license: mit\nbase_model: org/tiny\n" in text
    assert f"| calibrated on | org/texts@{COMMIT}/train.parquet sha256:" in text


def test_an_end_in_the_middle_leaves_nothing(tmp_path, chats):
    """SIGTERM while AWQ searches: code 1, one line, no half of a folder."""
    out = tmp_path / "out"
    process = start(DEMO, "--to", "awq", "--dataset", chats, "--samples", "4", "--out", out)
    for line in process.stderr:
        if "layer 1 of 30" in line:
            process.send_signal(signal.SIGTERM)
            break
    _, log = process.communicate(timeout=120)
    assert (process.returncode, log.splitlines()[-1]) == (1, "quantize: interrupted")
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


def test_a_model_that_no_library_knows(tmp_path):
    """What llm-compressor and transformers say of it is one line, and leaves no folder."""
    model = tiny_llama(tmp_path / "strange", model_type="strange")
    code, _, log = quantize(model, "--to", "fp8", "--out", tmp_path / "out")
    assert (code, log[-1][:48]) == (4, "strange cannot be quantized: The checkpoint you ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "python", "code", "said"),
    [
        (
            (DEMO, "--to", "awq"),
            sys.executable,
            2,
            "--to awq needs text to calibrate with: give --dataset FILE (.jsonl, .txt or .parquet) "
            "or --dataset org/name of a data set on the hub. --to fp8 needs none.",
        ),
        (
            (DEMO, "--to", "fp8"),
            sys.executable,
            4,
            f"llm-compressor is not installed in {sys.prefix}: `make .venv-quantize/cpu` makes an "
            "environment that has it, and `.venv-quantize/bin/python` runs this there.",
        ),
        (
            (MODELS / f"{NAME}-awq", "--to", "fp8"),
            PYTHON,
            2,
            f"{MODELS / f'{NAME}-awq'} is quantized already, as 'awq': choose the unquantized "
            "model that it was made from.",
        ),
        (
            ("./nowhere", "--to", "fp8"),
            PYTHON,
            2,
            "./nowhere is neither a folder nor a repository on the hub (org/name).",
        ),
        (
            (DEMO, "--to", "fp8", "--revision", "v1"),
            PYTHON,
            2,
            f"{DEMO} is a folder: --revision is for a repository on the hub.",
        ),
        (
            (DEMO, "--to", "fp8", "--sequence-length", "8193"),
            PYTHON,
            2,
            "--sequence-length 8193 is longer than the 8192 tokens of the model.",
        ),
        (
            (DEMO, "--to", "awq", "--dataset", "nowhere.jsonl"),
            PYTHON,
            2,
            "nowhere.jsonl is no file: give one that ends in .jsonl, .txt or .parquet.",
        ),
        (
            (DEMO, "--to", "fp8", "--held-out", "pyproject.toml"),
            PYTHON,
            2,
            "pyproject.toml should end in .jsonl, .txt or .parquet.",
        ),
    ],
    ids=[
        *("no data", "no llm-compressor", "quantized", "nowhere", "revision of a folder"),
        *("too long", "no file", "no text"),
    ],
)
def test_what_is_refused(tmp_path, arguments, python, code, said):
    """Before anything is loaded, in one sentence."""
    out = tmp_path / "out"
    found, printed, log = quantize(*arguments, "--out", out, python=python)
    assert (found, printed, log[-1]) == (code, "", said)
    assert not out.exists()


def test_help_needs_no_library():
    """It says how to make the environment, where there is none."""
    code, out, _ = quantize("--help", python=sys.executable)
    assert (code, out.splitlines()[0][:36]) == (0, "usage: python -m builder quantize [-")
    assert "make .venv-quantize/cpu" in out


@pytest.mark.parametrize(
    ("config", "files", "said"),
    [
        ({}, ["pytorch_model.bin"], "m has its weights only as pickle (pytorch_model.bin)"),
        ({}, [], "m has no weights."),
        ({"vision_config": {"a": 1}}, ["model.safetensors"], "m reads more than text"),
        ({"quantization_config": {"quant_method": "fp8"}}, [], "m is quantized already, as 'fp8'"),
        (None, [], "m is no model: config.json cannot be read."),
    ],
    ids=["pickle", "no weights", "pictures", "quantized", "no model"],
)
def test_what_is_no_base(tmp_path, config, files, said):
    """By the checkpoint's own JSON and the names of its files."""
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointRefused) as refused:
        base.check(tmp_path, "m")
    assert str(refused.value)[: len(said)] == said


def test_documents(tmp_path):
    """Texts and chats from lines of JSON, paragraphs from plain text."""
    lines = rows(tmp_path / "a.jsonl", {"text": "One."}, {"messages": CHAT, "more": 1})
    assert data.documents(lines) == ["One.", CHAT]
    plain = tmp_path / "a.txt"
    plain.write_text("One\ntwo.\n\n\nThree.\n")
    assert data.documents(plain) == ["One\ntwo.", "Three."]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.jsonl",
            b'{"text": "One."}\n\n{"text": \n',
            f"line 3 is no JSON: it should be {data.SHAPES}.",
        ),
        ("a.jsonl", b'{"txt": "One."}\n', f"line 1 has no text: it should be {data.SHAPES}."),
        ("a.jsonl", b'{"messages": [1]}\n', f"line 1 has no text: it should be {data.SHAPES}."),
        ("a.jsonl", b"[]\n", f"line 1 has no text: it should be {data.SHAPES}."),
        ("a.txt", b"\n \n", "a.txt is empty: it should hold text."),
        ("a.txt", b"a\xff", "a.txt is not text in UTF-8: byte 1 is wrong."),
        ("a.csv", b"text\n", "a.csv should end in .jsonl, .txt or .parquet."),
    ],
    ids=["no JSON", "no text", "no chat", "no object", "empty", "no UTF-8", "another kind"],
)
def test_broken_documents(tmp_path, name, content, said):
    """The line's number, and what would be right."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidArgument) as refused:
        data.documents(path)
    assert str(refused.value).endswith(said)


def test_the_last_tenth_is_held_out():
    """Of one document nothing can be."""
    documents = [str(number) for number in range(25)]
    assert data.split(documents, "d") == (documents[:23], documents[23:])
    assert data.split(documents[:2], "d") == (["0"], ["1"])
    with pytest.raises(InvalidArgument, match=r"^d has one document"):
        data.split(documents[:1], "d")


def test_what_is_held_out_does_not_calibrate():
    """Nor what repeats it; where nothing is left, that is said."""
    assert data.without(["a", "b", CHAT, "a"], ["a", list(CHAT)], "d") == ["b"]
    with pytest.raises(InvalidArgument, match=r"^d has nothing that is not held out"):
        data.without(["a"], ["a"], "d")


def test_windows():
    """All of one length but the last, of all documents in turn, a chat in the model's template."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    cut = windows(["One two three.", CHAT], tokenizer, 16, 9)
    assert {len(window) for window in cut[:-1]} == {16}
    whole = tokenizer.decode([token for window in cut for token in window])
    assert whole.startswith("One two three.\n\n<|im_start|>system\n")
    assert whole.endswith("<|im_start|>assistant\nThe capital of Germany is Berlin.<|im_end|>\n")
    assert windows(["One two three.", CHAT], tokenizer, 16, 1) == cut[:1]
    with pytest.raises(InvalidArgument, match="two tokens"):
        windows([], tokenizer, 16, 1)


def test_documents_are_mixed_in_the_same_way():
    """So that the same data set calibrates with the same text."""
    documents = [str(number) for number in range(20)]
    assert shuffled(documents) == shuffled(documents) != documents
    assert sorted(shuffled(documents)) == sorted(documents)


@pytest.mark.parametrize(
    ("widths", "size"), [((4096, 11008), 128), ((576, 1536), 32), ((96, 128), 32)]
)
def test_the_size_of_groups(widths, size):
    """128 where it divides every layer's inputs, else 32; or what was asked for."""
    assert group_size({str(width): width for width in widths}) == size
    assert group_size({str(width): width for width in widths}, 32) == 32


def test_no_size_of_groups():
    """The layer at fault is named."""
    with pytest.raises(
        CheckpointRefused, match=r"^b has 72 inputs, .* groups of 128 or 32: choose --to fp8"
    ):
        group_size({"a": 64, "b": 72})
    with pytest.raises(
        CheckpointRefused, match=r"^b has 32 inputs, .* groups of 64: choose a smaller"
    ):
        group_size({"a": 64, "b": 32}, 64)


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (["README.txt", "b.jsonl", "a/train-0.parquet"], None, "a/train-0.parquet"),
        (["b.jsonl", "a.txt", "LICENSE.txt"], None, "a.txt"),
        (["b.jsonl", "a.txt"], "b.jsonl", "b.jsonl"),
        (["b.jsonl"], "c.jsonl", None),
        (["README.md", "a.csv"], None, None),
    ],
    ids=["training", "first", "wanted", "not there", "none"],
)
def test_the_file_of_a_data_set(names, wanted, chosen):
    """One of a kind that is read, and no licence."""
    if chosen:
        assert source.choose("org/d", names, wanted) == chosen
        return
    with pytest.raises(InvalidArgument, match=r"^org/d has no"):
        source.choose("org/d", names, wanted)


def test_the_card():
    """Where it comes from, what was done, and what it cost."""
    recipe = Recipe("org/m", "c0ffee", "awq", "text.txt sha256:1", 512, "d.jsonl sha256:2", 128, 20)
    result = Result(Written(7, 128, True), 65536, 1000, 10.0, 10.5, "0.14")
    text = card(
        "m-awq",
        Base(Path("m"), "org/m", "main", "c0ffee", "apache-2.0"),
        recipe,
        Source(Path("text.txt"), "text.txt", "1"),
        result,
    )
    assert text.startswith("---\nlicense: apache-2.0\nbase_model: org/m\n")
    assert "groups of 128 inputs, with zero points; before they were rounded, AWQ moved" in text
    assert "| before | 10.000 |\n| after | 10.500 (+5.0 %) |" in text
    assert "So few tokens" in text
    assert "| commit | c0ffee |" in text
    assert "| calibrated on | d.jsonl sha256:2 |\n| samples | 128 |" in text


def test_how_recipes_differ():
    """The first difference in words; another version of this program is one."""
    one = Recipe("org/m", "c0ffee", "fp8", "text.txt sha256:1", 512)
    other = Recipe("org/m", "c0ffee", "awq", "text.txt sha256:1", 512, "d sha256:2", 128, 20)
    assert one.difference(one.text()) is None
    assert one.difference(other.text()) == "was made with method awq, not fp8"
    assert one.difference("{}") == "was made with version none, not 1"
