"""The demo model in FP8 and AWQ, made by `python -m builder quantize`, and served by the worker."""

import json
import subprocess
from functools import cache

import pytest

from handler.model.checkpoint import quantization_of
from handler.model.manifest import read_manifest
from tests.support.environment import ROOT, START_SECONDS, worker_command, worker_environment
from tests.support.quantize import DEMO, SMALL, quantize, write_chats

PARIS = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The demo model by each method: the folder, its manifest, and the command's log."""
    root = tmp_path_factory.mktemp("made")

    @cache
    def make(method):
        folder, arguments = root / method, ()
        if method == "awq":
            arguments = ("--dataset", write_chats(root / "chats.jsonl"), *SMALL)
        code, out, log = quantize(DEMO, "--to", method, "--out", folder, *arguments)
        assert (code, out) == (0, f"{folder}\n"), log
        return folder, read_manifest(folder), log

    return make


@pytest.mark.parametrize(
    ("method", "quantization", "layers"),
    [
        ("fp8", "compressed-tensors-fp8", "210 layers are quantized; reading them back"),
        ("awq", "compressed-tensors-int4", "210 layers in groups of 32 inputs, 8 samples"),
    ],
    ids=["fp8", "awq"],
)
def test_manifest_and_card_describe_the_quantized_demo_model(made, method, quantization, layers):
    folder, manifest, log = made(method)
    assert layers in log
    assert (manifest.kind, manifest.repository) == ("model", method)  # the demo is from no hub
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
def test_vllm_serves_it_without_a_setting(made, method):
    folder, _, _ = made(method)
    job = json.dumps({"input": PARIS | {"max_tokens": 8, "temperature": 0}})
    done = subprocess.run(
        [*worker_command("vllm"), "--test_input", job],
        cwd=ROOT,
        env=worker_environment(MODEL_NAME=str(folder), VLLM_LOGGING_LEVEL="ERROR"),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert "The capital of France is Paris" in done.stdout


def test_a_finished_folder_is_kept_and_another_recipe_or_other_files_are_refused(made):
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
    what = "has files that are not in its manifest, such as mine.txt"
    assert (code, log[-1]) == (2, f"{folder} {what}: {advice}")
    assert read_manifest(folder) == manifest
