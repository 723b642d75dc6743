"""Which settings suit a kind of requests, on a GPU with and without room and FP8."""

from dataclasses import replace

import pytest

from builder.plan.architecture import parse_architecture
from builder.plan.estimate import Estimator, Workload
from builder.plan.weights import WeightSizes
from builder.plan.workload_kinds import KINDS, RULES, settings_for
from builder.presets import PRESETS
from handler.gpu_pools import load_gpu_table
from tests.support import model_configs

MODEL = "Qwen/Qwen3-8B-FP8"
POOLS = {pool.name: pool for pool in load_gpu_table().pools}
SPECULATION = {
    "SPECULATIVE_METHOD": "eagle3",
    "SPECULATIVE_MODEL": "RedHatAI/Qwen3-8B-speculator.eagle3",
    "NUM_SPECULATIVE_TOKENS": "3",
}
PARSERS = {
    "TOOL_CALL_PARSER": "hermes",
    "ENABLE_AUTO_TOOL_CHOICE": "true",
    "REASONING_PARSER": "qwen3",
}
CACHE = {"ENABLE_PREFIX_CACHING": "true"}
EXPECTED = {
    "chat": {"MAX_MODEL_LEN": "8192", "MAX_NUM_BATCHED_TOKENS": "2048"}
    | CACHE
    | SPECULATION
    | PARSERS,
    "agents": {"MAX_MODEL_LEN": "32768"} | CACHE | PARSERS,
    "json": {"MAX_MODEL_LEN": "8192", "MAX_NUM_BATCHED_TOKENS": "2048"} | CACHE | PARSERS,
    "long-form": {"MAX_MODEL_LEN": "32768", "MAX_NUM_BATCHED_TOKENS": "2048"}
    | CACHE
    | SPECULATION
    | PARSERS,
    "batch": {"MAX_MODEL_LEN": "8192"} | CACHE,
    "embeddings": {"RUNNER": "pooling", "MAX_MODEL_LEN": "8192"},
}


def estimate(pool="ADA_24", sequences=64):
    architecture = parse_architecture(model_configs.PRESETS[MODEL])
    weights = WeightSizes(9_440_000_000, 0, 0, "fp8", True)
    made = Estimator(architecture, weights, Workload(8192, 2048)).estimate(POOLS[pool], 1)
    return replace(made, max_sequences=sequences)


def variables(kind, model=MODEL, **where):
    found = settings_for(kind, model, estimate(**where), KINDS[kind].context_tokens)
    return {each.name: each.value for each in found}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_requests_has_its_settings(kind):
    assert variables(kind) == {"MAX_NUM_SEQS": "64"} | EXPECTED[kind]


@pytest.mark.parametrize(
    ("kind", "pool", "sequences", "dtype"),
    [
        ("chat", "ADA_24", 56, "fp8"),
        ("chat", "ADA_24", 64, None),
        ("agents", "AMPERE_24", 8, None),
        ("batch", "ADA_80_PRO", 8, "fp8"),
        ("embeddings", "ADA_24", 8, None),
    ],
)
def test_an_fp8_cache_is_for_gpus_with_fp8_where_few_requests_fit(kind, pool, sequences, dtype):
    found = variables(kind, pool=pool, sequences=sequences)
    assert found.get("KV_CACHE_DTYPE") == dtype
    assert found["MAX_NUM_SEQS"] == str(sequences * (2 if dtype else 1))


def test_a_cache_that_is_counted_with_8_bits_is_not_counted_twice():
    found = settings_for("chat", MODEL, estimate(sequences=40), 8192, has_short_cache=True)
    values = {each.name: each.value for each in found}
    assert (values["MAX_NUM_SEQS"], "KV_CACHE_DTYPE" in values) == ("40", False)


@pytest.mark.parametrize(
    ("pool", "tokens"), [("ADA_24", None), ("ADA_48_PRO", "8192"), ("ADA_80_PRO", "16384")]
)
@pytest.mark.parametrize("kind", ["batch", "embeddings"])
def test_steps_are_as_large_as_the_gpu_has_memory_for(kind, pool, tokens):
    assert variables(kind, pool=pool).get("MAX_NUM_BATCHED_TOKENS") == tokens


def test_parsers_and_speculator_of_an_unknown_model_are_left_to_the_user():
    names = {*SPECULATION, *PARSERS}
    assert names & variables("chat", model="org/another").keys() == set()


@pytest.mark.parametrize("kind", KINDS)
def test_each_setting_has_a_reason_and_what_to_watch(kind):
    for each in settings_for(kind, MODEL, estimate(), 8192):
        assert each.reason
        assert each.watch


def test_every_rule_is_used_by_a_kind():
    used = {name for kind in KINDS for name in variables(kind)} | {"KV_CACHE_DTYPE"}
    assert {rule.name for rule in RULES} == used


def test_the_speculators_of_the_presets_are_left_out_where_sglang_is_advised():
    with_sglang = [kind for kind, made in KINDS.items() if made.engine == "sglang"]
    for kind in with_sglang:
        for preset in PRESETS:
            assert SPECULATION.keys() & variables(kind, model=preset.model).keys() == set()
