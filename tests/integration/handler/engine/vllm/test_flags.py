"""Variables named like vLLM's flags reach it, and its own parser checks their values."""

import os

import pytest

from handler.engine.flags.config_file import merge_config_file
from handler.engine.vllm import platform
from handler.engine.vllm.adapter import VllmAdapter
from handler.engine.vllm.flags import REFUSED, engine_flags
from handler.errors import InvalidSetting
from handler.model.resolve import resolve_model
from handler.settings.environ import load_settings
from handler.startup.gpus import Gpu
from tests.support.vllm_adapter import checked_vllm_adapter as check

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and torch warn while they are imported


def flags(folder, **environ):
    return vars(check(folder, **environ)._args)


def test_variables_become_flags_of_every_kind(model, tmp_path):
    """Numbers, booleans, choices, JSON and lists, in the spellings that people use."""
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer_config.json").write_text("{}")
    parsed = flags(
        model(),
        MAX_NUM_SEQS="64",
        GPU_MEMORY_UTILIZATION="0.85",
        ENFORCE_EAGER="True",
        ENABLE_PREFIX_CACHING="0",
        DISABLE_LOG_STATS="false",
        DTYPE="bfloat16",
        SPECULATIVE_CONFIG='{"method": "ngram", "num_speculative_tokens": 3}',
        ALLOWED_MEDIA_DOMAINS="a.example, b.example",
        TOKENIZER_NAME=str(tokenizer),
        MAX_MODEL_LEN="4k",
    )
    assert parsed["max_num_seqs"] == 64
    assert parsed["gpu_memory_utilization"] == 0.85
    assert parsed["enforce_eager"] is True
    assert parsed["enable_prefix_caching"] is False
    assert parsed["disable_log_stats"] is False
    assert parsed["dtype"] == "bfloat16"
    assert parsed["speculative_config"] == {"method": "ngram", "num_speculative_tokens": 3}
    assert parsed["allowed_media_domains"] == ["a.example", "b.example"]
    assert parsed["tokenizer"] == str(tokenizer)
    assert parsed["max_model_len"] == 4000


def test_the_model_has_the_folder_name_unless_another_is_given(model):
    """The served name is never a path."""
    assert flags(model())["served_model_name"] == ["tiny"]
    assert flags(model(), SERVED_MODEL_NAME="mine")["served_model_name"] == ["mine"]
    assert flags(model(), SERVED_MODEL_NAME="big,small")["served_model_name"] == ["big", "small"]


def test_examples_of_other_documentation_work(model):
    """Of flags beside variables, of an older form of limits, and names in other cases."""
    parsed = flags(
        model(),
        VLLM_EXTRA_ARGS="--override-generation-config '{\"max_new_tokens\": 512}' \\\n"
        "  --uvicorn-log-level warning",
        LIMIT_MM_PER_PROMPT="image=1,video=0",
        DTYPE="bf16",
        KV_CACHE_DTYPE="FP8",
        ENFORCE_EAGER="y",
        MAX_NUM_SEQS="8 # for now",
    )
    assert parsed["override_generation_config"] == {"max_new_tokens": 512}
    assert parsed["limit_mm_per_prompt"] == {"image": 1, "video": 0}
    assert (parsed["dtype"], parsed["kv_cache_dtype"]) == ("bfloat16", "fp8")
    assert (parsed["enforce_eager"], parsed["max_num_seqs"]) == (True, 8)


def test_engine_args_win_over_variables(model):
    """They come last, as on a command line."""
    parsed = flags(model(), MAX_NUM_SEQS="64", ENGINE_ARGS="--max-num-seqs 8 --max-model-len=2048")
    assert (parsed["max_num_seqs"], parsed["max_model_len"]) == (8, 2048)


def test_variables_of_other_programs_are_left_alone(model):
    """A container has a PORT, a HOST and more that are not the engine's."""
    others = {
        "HOST": "example",
        "PORT": "80",
        "ROOT_PATH": "/api",
        "MIDDLEWARE": "os.system",
        "CONFIG": "/etc/x.yaml",
        "API_KEY": "k",
        "HEADLESS": "1",
        "UDS": "/run/x",
    }
    plain, crowded = flags(model()), flags(model(), **others)
    assert {name: crowded[name] for name in REFUSED & crowded.keys()} == {
        name: plain[name] for name in REFUSED & plain.keys()
    }


def test_the_token_is_not_a_flag(model):
    """The engine's processes find it in their environment, not in arguments."""
    adapter = check(model(), HF_TOKEN="hf_secret")
    assert "hf_secret" not in str(adapter._args)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"DTYPE": "int3"},
            "DTYPE='int3': invalid choice: 'int3' (choose from 'auto', 'bfloat16', 'float', "
            "'float16', 'float32', 'half')",
        ),
        ({"MAX_NUM_SEQS": "many"}, "MAX_NUM_SEQS='many': invalid int value: 'many'"),
        (
            {"LOAD_FORMAT": "runai_streamer"},
            "LOAD_FORMAT='runai_streamer' needs the package runai-model-streamer, which is not "
            "installed here: add it to the image, or leave LOAD_FORMAT out.",
        ),
        ({"ENFORCE_EAGER": "maybe"}, "ENFORCE_EAGER='maybe' must be true or false."),
        (
            {"ALLOWED_MEDIA_DOMAINS": "[broken"},
            "ALLOWED_MEDIA_DOMAINS='[broken' must be a JSON list "
            "(Expecting value: line 1 column 2 (char 1)).",
        ),
        ({"ENGINE_ARGS": "--dtyp=x"}, "ENGINE_ARGS: unrecognized arguments: --dtyp=x"),
        ({"ENGINE_ARGS": "'--x"}, 'ENGINE_ARGS="\'--x": No closing quotation'),
        (
            {"ENGINE_ARGS": "--api-key k"},
            "ENGINE_ARGS: --api-key cannot be set: the engine's own HTTP server does not run here, "
            "and the worker's settings name the model.",
        ),
        ({"ENGINE_ARGS": "foo"}, "ENGINE_ARGS: 'foo' is not a flag."),
        (
            {"VLLM_EXTRA_ARGS": '--speculative-config {"method":"ngram"}'},
            "VLLM_EXTRA_ARGS: argument --speculative-config/-sc: Value {method:ngram} is not JSON.",
        ),
        (
            {"GPU_MEMORY_UTILIZATION": "95"},
            "GPU_MEMORY_UTILIZATION=95 must be above 0 and at most 1, such as 0.9.",
        ),
        (
            {"ENGINE_ARGS": "-h"},
            "ENGINE_ARGS: -h cannot be set: the engine's own HTTP server does not run here, and "
            "the worker's settings name the model.",
        ),
        (
            {"CUSTOM_CHAT_TEMPLATE": "/nope/x.jinja"},
            "CUSTOM_CHAT_TEMPLATE='/nope/x.jinja' is neither a file nor a template.",
        ),
        ({"ENABLE_AUTO_TOOL_CHOICE": "1"}, "ENABLE_AUTO_TOOL_CHOICE requires TOOL_CALL_PARSER"),
    ],
    ids=[
        "choice",
        "int",
        "loader",
        "bool",
        "list",
        "unknown",
        "quote",
        "server",
        "word",
        "JSON without its quotes",
        "percentage",
        "help",
        "template",
        "together",
    ],
)
def test_a_bad_value_is_refused_before_the_engine_loads(model, environ, message):
    """With the variable, its value, and what the engine accepts."""
    with pytest.raises(InvalidSetting) as caught:
        check(model(), **environ)
    assert str(caught.value) == message


def test_a_number_field_that_was_left_blank_is_vllms_default(model):
    """Of every flag whose values are above zero."""
    folder = model()
    blank = dict.fromkeys(engine_flags().value_rules.positive, "0")
    assert len(blank) > 30
    assert flags(folder, **blank) == flags(folder)


def test_a_file_of_flags_goes_through_the_same_checks(model, tmp_path):
    """File, then variables, then ENGINE_ARGS."""
    file = tmp_path / "flags.yaml"
    file.write_text(
        "max-num-seqs: 64\nmax-model-len: 1k\nseed: 1\nenable-prefix-caching: false\n"
        "compilation-config: {mode: 0}\nserved-model-name: [big, small]\ndtype: null\n"
    )
    given = {"ENGINE_ARGS": f"--config {file} --seed 3", "MAX_NUM_SEQS": "8", "SEED": "2"}
    merged, _ = merge_config_file(given, REFUSED)
    made = flags(model(), **merged)
    assert (made["max_num_seqs"], made["max_model_len"], made["seed"]) == (8, 1000, 3)
    assert made["enable_prefix_caching"] is False
    assert made["compilation_config"].mode == 0
    assert made["served_model_name"] == ["big", "small"]
    file.write_text("max-num-seq: 8")
    with pytest.raises(InvalidSetting) as caught:
        check(model(), ENGINE_CONFIG_FILE=str(file))
    assert str(caught.value) == (
        f"{file}: max-num-seq is not a flag of vLLM: did you mean max-num-seqs?"
    )


@pytest.mark.parametrize("variable", ["TOOL_CALL_PARSER", "REASONING_PARSER"])
def test_an_unknown_parser_is_refused_with_the_known_ones(model, variable):
    """vLLM itself would find out only after the weights are loaded."""
    with pytest.raises(InvalidSetting, match=f"^{variable}='nosuch': choose from .*, "):
        check(model(), **{variable: "nosuch"})


def test_a_users_own_parser_is_imported(model, tmp_path):
    """From a file, as `vllm serve` does."""
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from vllm.tool_parsers import ToolParser, ToolParserManager\n"
        "@ToolParserManager.register_module('mine')\n"
        "class Mine(ToolParser):\n"
        "    pass\n"
    )
    environ = {"TOOL_CALL_PARSER": "mine", "TOOL_PARSER_PLUGIN": str(plugin)}
    assert flags(model(), **environ)["tool_call_parser"] == "mine"
    with pytest.raises(InvalidSetting, match=r"^TOOL_PARSER_PLUGIN='/nope\.py' is not a file"):
        check(model(), TOOL_CALL_PARSER="mine", TOOL_PARSER_PLUGIN="/nope.py")


def test_similar_and_removed_names_are_logged_once(model, caplog):
    """Each with the right name; names of other programs are not logged."""
    check(
        model(),
        MAX_MODEL_LENGTH="1",
        GPU_MEM_UTILIZATION="1",
        MAX_CONCURENCY="1",
        SWAP_SPACE="4",
        HOME="/root",
        LD_LIBRARY_PATH="/x",
        RUNPOD_POD_ID="x",
        HOSTNAME="x",
    )
    warned = [r.message for r in caplog.records if r.name == "handler.engine.flags.parser"]
    assert [line for line in warned if "effect" in line] == [
        "GPU_MEM_UTILIZATION is not a setting and has no effect: "
        "did you mean GPU_MEMORY_UTILIZATION?",
        "MAX_CONCURENCY is not a setting and has no effect: did you mean MAX_CONCURRENCY?",
        "MAX_MODEL_LENGTH is not a setting and has no effect: did you mean MAX_MODEL_LEN?",
        "SWAP_SPACE has no effect: the engine recomputes preempted requests; "
        "use KV_OFFLOADING_SIZE to offload.",
    ]


def test_a_prequantized_checkpoint_keeps_the_engine_choice_of_kernel(model):
    """Naming the method would turn Marlin off on a GPU."""
    folder = model({"quant_method": "awq", "bits": 4})
    for name in ("awq", "awq_marlin", "auto_awq", "marlin"):
        assert flags(folder, QUANTIZATION=name)["quantization"] is None
    assert flags(folder, QUANTIZATION="moe_wna16")["quantization"] == "moe_wna16"


def test_an_unquantized_checkpoint_is_quantized_while_it_loads(model):
    """QUANTIZATION names one of the engine's methods."""
    assert flags(model(), QUANTIZATION="fp8")["quantization"] == "fp8"
    with pytest.raises(InvalidSetting, match=r"^QUANTIZATION='int9': choose from .*, awq, "):
        check(model(), QUANTIZATION="int9")


@pytest.mark.parametrize(
    ("environ", "plan"),
    [
        ({}, "1"),
        ({"GPU_MEMORY_UTILIZATION": "0.8"}, None),
        ({"ENGINE_ARGS": "--gpu-memory-utilization 0.8"}, None),
        ({"VLLM_ENABLE_STARTUP_PLAN": "0"}, "0"),
    ],
    ids=["default", "share", "share as flag", "off"],
)
def test_measured_memory_is_reused_only_for_the_default_fraction(model, monkeypatch, environ, plan):
    """vLLM's startup plan does not say for which GPU_MEMORY_UTILIZATION it was made."""
    monkeypatch.setattr(os, "environ", {**os.environ, **environ})
    environ = {**environ, "MODEL_NAME": str(model())}
    settings = load_settings(environ)
    adapter = VllmAdapter(settings, resolve_model(settings), environ)
    adapter.import_engine(settings, environ)
    adapter.check_flags()
    assert os.environ.get("VLLM_ENABLE_STARTUP_PLAN") == plan


def test_auto_reaches_the_engine_as_a_number(model, monkeypatch):
    """One rank runs in the core's process, several have processes of their own."""
    folder = model(num_attention_heads=8)
    one = check(folder, TENSOR_PARALLEL_SIZE="auto")._args
    gpus = [Gpu("NVIDIA L4", (8, 9), 23034 << 20, f"GPU-{number}") for number in range(2)]
    monkeypatch.setattr(platform, "gpus", lambda environ: gpus)
    two = check(folder, TP_SIZE="auto")._args
    assert (one.tensor_parallel_size, one.distributed_executor_backend) == (1, "uni")
    assert (two.tensor_parallel_size, two.distributed_executor_backend) == (2, None)


def test_the_start_names_variables_where_the_engine_names_flags(model):
    """A setting that needs another one."""
    with pytest.raises(InvalidSetting, match=r"^ENABLE_AUTO_TOOL_CHOICE requires TOOL_CALL_PARSER"):
        check(model(), ENABLE_AUTO_TOOL_CHOICE="true")
