"""LoRA adapters: settings, where they lie, and what they say on both engines."""

import subprocess
import sys
from pathlib import Path

import pytest

from handler.environ import load
from handler.errors import InvalidSetting, ModelUnavailable
from handler.model.lora import LoraSpec, locate, read
from tests.support.checkpoints import lora
from tests.support.environment import ROOT, clean_environment
from tests.support.hub import Repository, running_hub

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            '[{"name": "sql", "path": "org/sql", "revision": "v1"}, '
            '{"name": "x", "repository": "o/x"}]',
            (LoraSpec("sql", "org/sql", "v1"), LoraSpec("x", "o/x")),
        ),
        ('{"name": "sql", "path": "/a", "base_model_name": "org/base"}', (LoraSpec("sql", "/a"),)),
        ("sql=org/sql x=/loras/x", (LoraSpec("sql", "org/sql"), LoraSpec("x", "/loras/x"))),
    ],
    ids=["list", "one object", "pairs"],
)
def test_the_setting_has_the_forms_that_people_use(text, wanted):
    """Those of vLLM, of SGLang, and of the workers before this one."""
    assert read(text) == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[broken", "(Expecting value: line 1 column 2 (char 1))."),
        ("org/sql", "('org/sql' has no =)."),
        ('[{"name": "a b", "path": "x"}]', "('a b' is no name)."),
        ('[{"name": "a"}]', "(a has no path)."),
        ('[{"name": "a", "path": "x", "rank": 4}]', "('rank' is not known)."),
        ("a=x a=y", "has two adapters of the name 'a'."),
        ("a--b=x", "('a--b' is no name)."),
    ],
    ids=["no JSON", "no name", "blank", "no path", "unknown", "twice", "dashes"],
)
def test_what_names_no_adapter_is_refused(text, reason):
    """With the text and what is wrong with it."""
    with pytest.raises(InvalidSetting) as caught:
        read(text)
    assert str(caught.value).startswith(f"LORA_MODULES={text!r} ")
    assert str(caught.value).endswith(reason)


def test_adapters_are_found_in_folders_and_on_the_hub(tmp_path):
    """With their ranks; from the hub come the two files that count."""
    folder = lora(tmp_path / "local", rank=8)
    (folder / "optimizer.pt").write_text("left behind")
    (tmp_path / "volume").mkdir()
    code = (
        "import os\nfrom handler.model.lora import locate\nfrom handler.environ import load\n"
        "for found in locate(load(os.environ)):\n"
        "    print(found.name, found.rank, found.is_local, found.path)"
    )
    with running_hub(adapter=Repository(folder)) as hub:
        environ = clean_environment(
            LORA_MODULES=f"local={folder} far=org/adapter",
            BASE_PATH=str(tmp_path / "volume"),
            HF_ENDPOINT=hub.url,
            HF_HUB_DISABLE_XET="1",
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environ,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    local, far = done.stdout.splitlines()
    assert local == f"local 8 True {folder}"
    assert far.startswith("far 8 False ")
    assert sorted(path.name for path in Path(far.removeprefix("far 8 False ")).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    """It says what is missing."""
    with pytest.raises(ModelUnavailable) as caught:
        locate(load({"LORA_MODULES": f"a={tmp_path}"}), tmp_path)
    assert str(caught.value) == (
        f"LORA_MODULES={str(tmp_path)!r} looks like a local folder, but there is no "
        "adapter_config.json in it."
    )


def test_an_adapter_is_chosen_by_its_name(client, endpoint, paris):
    """Per request: the model's own answer stays what it was."""

    def ask(model):
        answer = client.chat.completions.create(
            model=model, messages=QUESTION, temperature=0, max_tokens=12
        )
        assert answer.model == model
        return answer.choices[0].message.content

    assert ask("org/other") != paris
    assert ask(endpoint.model) == paris
    assert ask("org/other") == ask("org/other")


def test_adapters_are_listed_without_their_paths(client, endpoint):
    """After the model, and as its children."""
    listed = client.models.list().data
    assert [(card.id, card.root, card.parent) for card in listed] == [
        (endpoint.model, endpoint.model, None),
        ("org/other", "org/other", endpoint.model),
    ]


def test_an_adapter_streams_a_native_job(endpoint):
    """By the same name on every way in."""
    chat = {"messages": QUESTION, "model": "org/other", "ignore_eos": True}
    job = endpoint.run({**chat, "max_tokens": 8, "stream": True})
    assert job.error is None
    assert job.output[-1]["usage"]["completion_tokens"] == 8
