"""What `benchmarks/gpu.py` makes and prints; the engine it measures does not run here."""

import asyncio
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from benchmarks import gpu
from benchmarks.cuda import case as gpu_case
from benchmarks.cuda import engine as gpu_engine
from benchmarks.cuda import load as gpu_load
from benchmarks.cuda import report as gpu_report
from benchmarks.cuda import run as gpu_run
from benchmarks.cuda import worker as gpu_worker
from benchmarks.cuda.model import CASES, QUANTIZATION, SHAPES, Case, configuration, tokenizer, write

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
    "bos_token_id": 128254,
    "eos_token_id": 128255,
}


def test_the_large_model_has_the_shapes_of_llama():
    """Of 8B parameters, without a word about quantization."""
    assert configuration(SHAPES["8b"], "none") == LLAMA_8B


@pytest.mark.parametrize(
    ("quantization", "method"), [("fp8", "compressed-tensors"), ("awq", "awq")], ids=["fp8", "awq"]
)
def test_a_quantization_is_one_field_more(quantization, method):
    """As in a checkpoint that was quantized before."""
    config = configuration(SHAPES["8b"], quantization)
    said = config.pop("quantization_config")
    assert (config, said["quant_method"]) == (LLAMA_8B, method)


@pytest.mark.parametrize("name", SHAPES, ids=str)
def test_awq_groups_fit_the_shapes(name):
    """Rows are cut into groups; what is left over would be refused."""
    group = QUANTIZATION["awq"]["group_size"]
    assert (SHAPES[name].hidden % group, SHAPES[name].intermediate % group) == (0, 0)


def test_every_token_of_the_model_is_a_text(tmp_path):
    """Weights at random write any of them."""
    folder = write(tmp_path / "model", SHAPES["tiny"], "none")
    made = tokenizer(1024)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 1024
    assert made.get_vocab_size() == 1024
    assert [made.decode([token]) for token in (256, 257, 1021)] == ["aaaa", "aaab", "abdl"]
    assert made.decode([1022, 1023], skip_special_tokens=False) == "<s></s>"


def test_prompts_are_the_same_for_the_same_number():
    """And hold no special token."""
    first, second = gpu_load.prompts(7, 2, 50, 5)
    assert gpu_load.prompts(8, 1, 50, 5) == [second]
    assert first != second
    assert set(first + second) == {0, 1, 2}


@pytest.mark.parametrize(
    ("count", "slowest"), [(1, 1), (8, 8), (100, 99), (512, 507)], ids=lambda number: str(number)
)
def test_the_slowest_hundredth_is_a_value_that_was_measured(count, slowest):
    """Of few values the largest."""
    assert gpu_load.p99(range(1, count + 1)) == slowest


async def _three(_: list[int], tokens: int):
    for written in (1, 1, tokens - 2):
        yield written


async def _short(_: list[int], tokens: int):
    yield tokens - 1


def test_every_prompt_gets_its_answer():
    """Its flushes and the answers are counted."""
    load = asyncio.run(gpu_load.measure(_three, [[1]] * 5, streams=2, tokens=8))
    assert (load.streams, load.answers, load.flushes_per_answer) == (2, 5, 3)


def test_an_answer_that_is_too_short_is_no_measurement():
    """The figures are of whole answers."""
    with pytest.raises(RuntimeError, match="of 8 tokens was asked for, it has 7"):
        asyncio.run(gpu_load.measure(_short, [[1]], streams=1, tokens=8))


@pytest.mark.parametrize("place", [0, 1, 2], ids=["0.33", "0.30", "0.26"])
def test_a_name_is_found_where_a_release_has_it(monkeypatch, place):
    """The newest place is tried first; one that is not there is passed over."""
    places = ("gpu_fake.common.cli_args", "gpu_fake.launchers.cli_args", "gpu_fake.cli_args")
    monkeypatch.setitem(gpu_case.MODULES, "make_arg_parser", places)
    monkeypatch.setitem(sys.modules, "gpu_fake", _module("gpu_fake"))
    there = _module(places[place], make_arg_parser=place)
    monkeypatch.setitem(sys.modules, places[place], there)
    assert gpu_case.found("make_arg_parser") == place


def test_a_name_that_is_nowhere_is_said_to_be_missing(monkeypatch):
    """With the places where it was looked for; the module alone is not enough."""
    monkeypatch.setitem(gpu_case.MODULES, "build_app", ("gpu_fake", "gpu_other"))
    monkeypatch.setitem(sys.modules, "gpu_fake", _module("gpu_fake"))
    with pytest.raises(ImportError, match=r"^this vLLM has no build_app in gpu_fake, gpu_other$"):
        gpu_case.found("build_app")


def test_a_module_that_cannot_be_imported_is_not_passed_over(monkeypatch, tmp_path):
    """What it needs is missing: that is the reason to be seen."""
    (tmp_path / "gpu_broken.py").write_text("import gpu_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(gpu_case.MODULES, "build_app", ("gpu_broken",))
    with pytest.raises(ModuleNotFoundError, match="gpu_not_installed"):
        gpu_case.found("build_app")


def _module(name: str, **members: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module


def test_a_note_is_in_the_file_at_once(tmp_path):
    """A case that ends early leaves what it had."""
    measured = gpu_case.Measured(tmp_path / "result.json")
    measured.note("stages.imports", 1.5)
    measured.note("stages.engine", None)
    measured.note("quantization", "fp8")
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "stages": {"imports": 1.5, "engine": None},
        "quantization": "fp8",
    }


@pytest.mark.parametrize(
    ("counted", "share", "tokens"),
    [((0, 0, 0), None, None), ((10, 40, 30), 0.75, 4.0), ((10, 40, 0), 0.0, 1.0)],
    ids=["no speculation", "most are right", "none is right"],
)
def test_drafts_are_counted(counted, share, tokens):
    """A draft's step also writes the token that the model itself chose."""
    names = ("drafts", "draft_tokens", "accepted_tokens")
    made = gpu_engine.acceptance(dict(zip(names, counted, strict=True)))
    assert made == {"accepted_share": share, "tokens_per_draft": tokens}


def test_engine_arguments_are_spelled_as_flags():
    """The worker's engine is given what the engine alone is given."""
    flags = {"max_num_seqs": 8, "load_format": "dummy", "speculative_config": {"method": "ngram"}}
    assert gpu_worker.command_line("folder", flags) == [
        "--model=folder",
        "--served-model-name=model",
        "--max-num-seqs=8",
        "--load-format=dummy",
        '--speculative-config={"method": "ngram"}',
    ]


LOG = """\
(EngineCore pid=1) INFO 10-06 12:00:31 [gpu_model_runner.py:5150] Model loading took 8.48 GiB \
memory and 1.250000 seconds
(EngineCore pid=1) INFO 10-06 12:00:31 [backends.py:1167] Dynamo bytecode transform time: 4.50 s
(EngineCore pid=1) INFO 10-06 12:00:31 [monitor.py:48] torch.compile took 12.25 s in total
(EngineCore pid=1) INFO 10-06 12:00:31 [kv_cache_utils.py:1087] GPU KV cache size: 861,952 tokens
(EngineCore pid=1) INFO 10-06 12:00:31 [mm.py:95] Encoder graph capturing finished in 3 secs, took
(EngineCore pid=1) INFO 10-06 12:00:31 [gpu_model_runner.py:6582] Graph capturing finished in \
8 secs, took 0.31 GiB
(EngineCore pid=1) INFO 10-06 12:00:31 [core.py:396] init engine (profile, create kv cache, \
warmup model) took 31.50 s (compilation: 12.25 s)
"""


def test_the_start_is_read_from_the_engines_log():
    """What it does not say is None."""
    assert gpu_report.read_log(LOG, gpu_report.STAGES) == {
        "model": 1.25,
        "dynamo": 4.5,
        "compile": 12.25,
        "profile": None,
        "graphs": 8.0,
        "after_model": 31.5,
    }
    facts = gpu_report.read_log(LOG, gpu_report.FACTS)
    assert facts == {"model_gib": 8.48, "kv_cache_tokens": 861952.0}


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("torch.compile takes 20.50 s in total", {"compile": 20.5}),
        ("Model loading took 14.99 GiB and 2.5 seconds", {"model": 2.5}),
        (
            "init engine (profile, create kv cache, warmup model) took 2.67 seconds",
            {"after_model": 2.67},
        ),
    ],
    ids=["compile", "model", "after the model"],
)
def test_other_releases_say_it_otherwise(line, seconds):
    """The same seconds all the same."""
    read = gpu_report.read_log(line, gpu_report.STAGES)
    assert {name: value for name, value in read.items() if value is not None} == seconds


def _load(tokens_per_second: float) -> dict[str, float]:
    return {
        "streams": 1,
        "answers": 8,
        "tokens_per_second": tokens_per_second,
        "first_token_p50_seconds": 0.5,
        "first_token_p99_seconds": 0.5,
        "inter_token_p50_seconds": 0.5,
        "flushes_per_answer": 128,
        "cpu_ms_per_token": 0.0,
    }


REPORT = {
    "machine": {"gpu": "NVIDIA H200", "vllm": "0.26.0"},
    "cases": {
        "fp8": {
            "starts": {"cold": {"total": 90.0, "graphs": None}, "warm": {"total": 45.0}},
            "load": {"1": _load(300.0)},
            "kv_cache_tokens": 900.0,
        },
        "bf16": {
            "starts": {"cold": {"total": 80.0}},
            "load": {"1": _load(200.0), "16": _load(900.0)},
            "kv_cache_tokens": 600.0,
            "error": "ended with 1: RuntimeError: no more",
        },
        "awq": {"starts": {}, "error": "not run: cold, the time of --budget is used up"},
    },
}


def test_ratios_are_of_what_both_sides_have():
    """Nothing is made of a case that failed, nor of a figure of 0."""
    rows = gpu_report.ratios(REPORT["cases"])
    assert [(row["what"], row["of"], row["to"], row["ratio"]) for row in rows] == [
        ("tokens/s, streams: 1", "fp8", "bf16", 1.5),
        ("first token p50 (s), streams: 1", "fp8", "bf16", 1.0),
        ("first token p99 (s), streams: 1", "fp8", "bf16", 1.0),
        ("between tokens p50 (s), streams: 1", "fp8", "bf16", 1.0),
        ("KV cache (tokens)", "fp8", "bf16", 1.5),
        ("start → first token (s)", "fp8 warm", "fp8 cold", 0.5),
    ]


def test_the_table_says_what_was_measured_and_what_was_not():
    """One table of loads, one of starts, one of ratios, and what is missing."""
    ratios = gpu_report.ratios(REPORT["cases"])[-1:]
    text = gpu_report.markdown(REPORT | {"ratios": ratios})
    lines = text.splitlines()
    assert lines[0] == "gpu NVIDIA H200, vllm 0.26.0"
    assert "| fp8 | 1 | 300 | 0.5 | 0.5 | 0.5 | 0 |" in lines
    assert "| fp8 | cold | – | – | – | – | – | – | – | – | – | – | 90 |" in lines
    assert "| start → first token (s) | fp8 warm | fp8 cold | 45 | 90 | 0.5 |" in lines
    assert lines[-3:] == [
        "bf16: ended with 1: RuntimeError: no more",
        "",
        "awq: not run: cold, the time of --budget is used up",
    ]


@pytest.mark.parametrize(
    ("lines", "first"),
    [
        (
            ["x", "(EngineCore pid=1) ERROR [core.py:1] RuntimeError: out of memory", "E: y"],
            "RuntimeError: out of memory",
        ),
        (["vllm.exceptions.VLLMError: a", "ValueError: b"], "vllm.exceptions.VLLMError: a"),
        (["something", "the last"], "the last"),
        ([], "it wrote nothing"),
    ],
    ids=["in the core", "first", "no error", "no output"],
)
def test_the_cause_is_the_first_error_of_a_log(lines, first):
    """What follows is what it led to."""
    assert gpu_run.cause(lines) == first


def test_a_cases_environment_has_its_models_own_caches():
    """What is compiled for one is cold for the other; nothing is downloaded."""
    made = gpu_run.environment({"PATH": "bin"}, Path("/run"), Case("a", "awq"), on_cpu=False)
    assert made == {
        "PATH": "bin",
        "VLLM_CACHE_ROOT": "/run/cache-awq/vllm",
        "TORCHINDUCTOR_CACHE_DIR": "/run/cache-awq/inductor",
        "TRITON_CACHE_DIR": "/run/cache-awq/triton",
        "CUDA_CACHE_PATH": "/run/cache-awq/cuda",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
    }


def test_the_worker_spawns_its_core_on_a_gpu():
    """As its own adapter has it, unless somebody asks for another way."""
    case = next(case for case in CASES if case.name == "fp8-worker")
    name = "VLLM_WORKER_MULTIPROC_METHOD"
    asked = [{}, {name: "fork"}]
    made = [gpu_run.environment(given, Path("/run"), case, on_cpu=False) for given in asked]
    assert [environment[name] for environment in made] == ["spawn", "fork"]


def _nvml(**more: object) -> ModuleType:
    return _module(
        "pynvml",
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda device: "NVIDIA H200",
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(total=139 * 2**30),
        nvmlSystemGetDriverVersion=lambda: "580.1",
        **more,
    )


def test_the_device_is_what_nvml_says(monkeypatch):
    """Without a context of our own on it."""
    monkeypatch.setitem(sys.modules, "pynvml", _nvml())
    found = gpu.machine()
    assert [found[name] for name in ("gpu", "gpu_memory_gib", "driver")] == [
        "NVIDIA H200",
        139.0,
        "580.1",
    ]


def test_without_a_device_one_sentence_is_all(monkeypatch, capsys):
    """And an exit code of its own."""
    nothing = {"gpu": None, "vllm": "0.26.0"}
    monkeypatch.setattr(gpu, "machine", lambda: nothing)
    assert gpu.main([], {}) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "",
        "No CUDA device is visible; --model tiny runs without one.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--cases", "fp8,int3"], "'int3': choose from fp8, fp8-worker"),
        (["--streams", "1,0"], "'0': give a whole number, 1 or more"),
        (["--answer-tokens", "1"], "'1': give a whole number, 2 or more"),
        (["--prompt-tokens", "2000"], "prompt and answer have 2128 tokens; 2048 are the most"),
        (["--out", "nowhere/at/all.json"], "'nowhere/at/all.json': there is no such folder"),
    ],
    ids=["case", "streams", "answer", "context", "folder"],
)
def test_a_bad_option_stops_the_start(capsys, arguments, complaint):
    """Not after ten minutes."""
    with pytest.raises(SystemExit) as stopped:
        gpu.main(arguments, {})
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err
