"""`python -m builder quantize` with other inputs, an interruption, and what it refuses."""

import json
import signal
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from builder.errors import InvalidArgument
from builder.quantize.documents import read_documents, token_windows
from handler.model.manifest import read_manifest
from tests.support.checkpoints import tiny_llama
from tests.support.environment import MODELS, NAME
from tests.support.hub import COMMIT, Repository, running_hub
from tests.support.quantize import (
    CHATS,
    DEMO,
    HELD_OUT,
    PYTHON,
    SMALL,
    quantize,
    start_quantize,
    write_chats,
    write_rows,
)


def test_a_model_and_one_parquet_file_of_a_data_set_are_fetched_at_a_commit(tmp_path):
    tiny = tiny_llama(tmp_path / "tiny")
    texts = tmp_path / "texts"
    texts.mkdir()
    write_rows(texts / "test.jsonl", {"text": "not this one"})
    table = {"text": read_documents(HELD_OUT)}
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
    assert f"| dataset | org/texts@{COMMIT}/train.parquet sha256:" in text


def test_sigterm_while_awq_runs_is_one_line_and_leaves_no_folder(tmp_path, tmp_path_factory):
    out = tmp_path / "out"
    chats = write_chats(tmp_path_factory.mktemp("chats") / "chats.jsonl")
    process = start_quantize(
        DEMO, "--to", "awq", "--dataset", chats, "--samples", "4", "--out", out
    )
    for line in process.stderr:
        if "layer 1 of 30" in line:
            process.send_signal(signal.SIGTERM)
            break
    _, log = process.communicate(timeout=120)
    assert (process.returncode, log.splitlines()[-1]) == (1, "quantize: interrupted")
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


def test_an_unknown_architecture_is_one_line_and_leaves_no_folder(tmp_path):
    model = tiny_llama(tmp_path / "strange", model_type="strange")
    code, _, log = quantize(model, "--to", "fp8", "--out", tmp_path / "out")
    assert (code, log[-1][:48]) == (4, "strange cannot be quantized: The checkpoint you ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "python", "code", "message"),
    [
        (
            (DEMO, "--to", "awq"),
            sys.executable,
            2,
            "--to awq needs text to calibrate on: give --dataset FILE (.jsonl, .txt or .parquet) "
            "or --dataset org/name of a data set on the hub. --to fp8 needs none.",
        ),
        (
            (DEMO, "--to", "fp8"),
            sys.executable,
            4,
            f"llm-compressor is not installed in {sys.prefix}: `make .venv-quantize/cpu` makes an "
            "environment with it, run this command with `.venv-quantize/bin/python`.",
        ),
        (
            (MODELS / f"{NAME}-awq", "--to", "fp8"),
            PYTHON,
            2,
            f"{MODELS / f'{NAME}-awq'} is already quantized, as 'awq': choose the "
            "unquantized model that it was made from.",
        ),
        (
            ("./nowhere", "--to", "fp8"),
            PYTHON,
            2,
            "./nowhere is neither a folder nor a hub repository (org/name).",
        ),
        (
            (DEMO, "--to", "fp8", "--revision", "v1"),
            PYTHON,
            2,
            f"{DEMO} is a folder: --revision is for a hub repository.",
        ),
        (
            (DEMO, "--to", "fp8", "--sequence-length", "8193"),
            PYTHON,
            2,
            "--sequence-length 8193 is longer than the model's 8192 tokens.",
        ),
        (
            (DEMO, "--to", "awq", "--dataset", "nowhere.jsonl"),
            PYTHON,
            2,
            "nowhere.jsonl is not a file: give a .jsonl, .txt or .parquet file.",
        ),
        (
            (DEMO, "--to", "fp8", "--held-out", "pyproject.toml"),
            PYTHON,
            2,
            "pyproject.toml must be a .jsonl, .txt or .parquet file.",
        ),
    ],
    ids=[
        *("no data", "no llm-compressor", "quantized", "nowhere", "revision of a folder"),
        *("too long", "no file", "no text"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_loaded(
    tmp_path, arguments, python, code, message
):
    out = tmp_path / "out"
    found, printed, log = quantize(*arguments, "--out", out, python=python)
    assert (found, printed, log[-1]) == (code, "", message)
    assert not out.exists()


def test_help_works_without_llm_compressor_and_names_its_environment():
    code, out, _ = quantize("--help", python=sys.executable)
    assert (code, out.splitlines()[0][:36]) == (0, "usage: python -m builder quantize [-")
    assert "make .venv-quantize/cpu" in out


def test_windows_of_one_length_hold_all_documents_in_turn_and_chats_in_the_models_template():
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    cut = token_windows(["One two three.", CHATS[0]], tokenizer, 16, 9)
    assert {len(window) for window in cut[:-1]} == {16}
    whole = tokenizer.decode([token for window in cut for token in window])
    assert whole.startswith("One two three.\n\n<|im_start|>system\n")
    assert whole.endswith("<|im_start|>assistant\nThe capital of Germany is Berlin.<|im_end|>\n")
    assert token_windows(["One two three.", CHATS[0]], tokenizer, 16, 1) == cut[:1]
    with pytest.raises(InvalidArgument, match="two tokens"):
        token_windows([], tokenizer, 16, 1)
