"""What the engine says of its memory → the smaller configuration of a second start."""

from dataclasses import replace

import pytest

from handler.engine.failed_start.out_of_memory import (
    GIB,
    Shortage,
    is_lasting,
    is_out_of_memory,
    shortage_of,
)
from handler.engine.failed_start.report import DEVICE, GRAPHS, KV_CACHE, MEASURE, WEIGHTS, Failure
from handler.engine.failed_start.second_start import values
from handler.engine.failed_start.smaller_configuration import (
    MARGIN_BYTES,
    advice,
    smaller_configuration,
)
from handler.engine.interface import AUTO, Configuration, LoweredSetting
from handler.model.activations import step_bytes

MIB = 1 << 20
FIELDS = ("batched_tokens", "graphs", "sequences", "model_tokens")
LLAMA_8B = {"hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256}
TOKEN_BYTES, SEQUENCE_BYTES = step_bytes(LLAMA_8B, 1)
START = Configuration(
    batched_tokens=8192,
    graph_sizes=(1, 2, 4, *range(8, 257, 8)),
    sequences=256,
    model_tokens=131072,
    token_bytes=TOKEN_BYTES,
    sequence_bytes=SEQUENCE_BYTES,
    graph_bytes=GIB,
    kv_token_bytes=128 << 10,
    memory_fraction=0.92,
    min_batched_tokens=256,
    min_graphs=0,
    has_own_cache=False,
    fixed=frozenset(),
    settings={
        "batched_tokens": "MAX_NUM_BATCHED_TOKENS",
        "graphs": "MAX_CUDAGRAPH_CAPTURE_SIZE",
        "no_graphs": "ENFORCE_EAGER",
        "sequences": "MAX_NUM_SEQS",
        "model_tokens": "MAX_LEN",
    },
)


def cache_text(needed: float, available: float, fits: int) -> str:
    return (
        "ValueError: To serve at least one request with the model's max seq len (131072), "
        f"({needed} GiB KV cache is needed, which is larger than the available KV cache memory "
        f"({available} GiB). Based on the available memory, the estimated maximum model length is "
        f"{fits}. Try increasing `gpu_memory_utilization`"
    )


NO_CACHE = "ValueError: No available memory for the cache blocks. Try increasing"
ALLOCATION = (
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 768.00 MiB. GPU 0 has a total "
    "capacity of 79.19 GiB of which 256.00 MiB is free. Process 1 has 78.94 GiB memory in use."
)


def failure(text: str, step: str = "", **figures: int) -> Failure:
    return Failure((text,), step, figures)


def lowered(failed: Failure, start: Configuration = START) -> dict[str, int]:
    shortage = shortage_of(failed, start)
    fields = {name: field for field, name in start.settings.items()}
    smaller = smaller_configuration(shortage, failed, start)
    return {fields[setting.name]: setting.after for setting in smaller}


def test_the_sizes_of_a_step_are_those_of_the_plan():
    assert (TOKEN_BYTES, SEQUENCE_BYTES) == (2 * (6 * 4096 + 3 * 14336), 2 * 4 * 128256)


@pytest.mark.parametrize(
    ("text", "is_shortage"),
    [
        (cache_text(16.0, 9.1, 74560), True),
        (NO_CACHE, True),
        ("ValueError: Cannot auto-fit max_model_len: not enough GPU memory available", True),
        (ALLOCATION, True),
        ("AcceleratorError: CUDA error: out of memory", True),
        ("ValueError: Unknown quantization method: nosuch", False),
    ],
)
def test_what_a_shortage_is(text, is_shortage):
    assert is_out_of_memory(failure(text)) is is_shortage


def test_what_the_engine_says_of_its_kv_cache():
    assert shortage_of(failure(cache_text(16.0, 9.0, 74560)), START) == Shortage(
        7 * GIB, "KV cache", 9 * GIB, 74560
    )


def test_a_small_shortage_of_the_kv_cache_costs_batched_tokens_only():
    """As many as the missing memory takes; AUTO keeps the length where that is right."""
    missing = int(0.25 * GIB) + MARGIN_BYTES
    tokens = -(-missing // TOKEN_BYTES)
    assert lowered(failure(cache_text(16.0, 15.75, 129000))) == {
        "batched_tokens": (8192 - tokens) // 256 * 256,
        "model_tokens": AUTO,
    }


def test_then_graphs_by_what_the_ranks_have_measured():
    """All batched tokens down to 512 are not enough; half of the graphs are, and one more."""
    saved = (8192 - 512) * TOKEN_BYTES
    graphs = len(START.graph_sizes)
    needed = saved + GIB // 2 - MARGIN_BYTES
    failed = failure(NO_CACHE, available_bytes=131072 * 131072 - needed, graph_bytes=GIB)
    kept = graphs - -(-(GIB // 2) // (GIB // graphs))
    assert lowered(failed) == {
        "batched_tokens": 512,
        "graphs": START.graph_sizes[kept - 1],
        "model_tokens": AUTO,
    }


def test_then_sequences():
    start = replace(START, fixed=frozenset({"batched_tokens", "graphs"}))
    failed = failure(cache_text(16.0, 15.95, 130000))
    needed = int(16 * GIB) - int(15.95 * GIB) + MARGIN_BYTES
    count = (256 - -(-needed // SEQUENCE_BYTES)) // 8 * 8
    assert lowered(failed, start) == {"sequences": count, "model_tokens": AUTO}


def test_where_only_the_length_helps_nothing_else_is_lowered():
    assert lowered(failure(cache_text(16.0, 9.1, 74560))) == {"model_tokens": AUTO}


def test_without_any_room_the_batch_gives_it_first():
    """Room for 2,048 tokens; the engine then finds what fits."""
    failed = failure(NO_CACHE, available_bytes=-64 * MIB)
    needed = 64 * MIB + 2048 * (128 << 10)
    tokens = (8192 - -(-needed // TOKEN_BYTES)) // 256 * 256
    assert lowered(failed) == {"batched_tokens": tokens, "model_tokens": AUTO}


def test_a_length_that_the_user_has_set_stays():
    start = replace(START, fixed=frozenset({"model_tokens"}))
    failed = failure(cache_text(16.0, 9.1, 74560))
    assert lowered(failed, start) == {}
    assert advice(shortage_of(failed, start), start) == "set MAX_LEN to at most 74560"


def test_what_the_user_has_set_is_named_where_nothing_is_left():
    start = replace(START, fixed=frozenset(FIELDS))
    failed = failure(ALLOCATION, MEASURE)
    assert lowered(failed, start) == {}
    assert advice(shortage_of(failed, start), start) == (
        "lower MAX_NUM_BATCHED_TOKENS or MAX_CUDAGRAPH_CAPTURE_SIZE or MAX_NUM_SEQS or MAX_LEN, or "
        "use a larger GPU, more GPUs (TENSOR_PARALLEL_SIZE), or a checkpoint with fewer bits (AWQ, "
        "FP8)"
    )


def test_a_cache_of_a_given_size_takes_nothing_from_a_smaller_batch():
    start = replace(START, has_own_cache=True)
    assert lowered(failure(cache_text(16.0, 15.75, 129000)), start) == {"model_tokens": AUTO}


def test_an_allocation_of_the_first_step_costs_what_the_longest_request_needs_too():
    """The step that measures runs before there is a KV cache."""
    start = replace(START, batched_tokens=32768, model_tokens=1024, memory_fraction=1.0)
    missing = 2 * 512 * MIB + MARGIN_BYTES + 1024 * (128 << 10)
    tokens = (32768 - -(-missing // TOKEN_BYTES)) // 256 * 256
    assert lowered(failure(ALLOCATION, MEASURE), start) == {
        "batched_tokens": tokens,
        "model_tokens": AUTO,
    }


def test_where_the_batch_does_not_give_that_the_engine_finds_the_length():
    """It gives a context of 2,048 tokens."""
    start = replace(START, batched_tokens=16384, memory_fraction=1.0)
    missing = 2 * 512 * MIB + 2048 * (128 << 10)
    assert lowered(failure(ALLOCATION, MEASURE), start) == {
        "batched_tokens": (16384 - -(-missing // TOKEN_BYTES)) // 256 * 256,
        "model_tokens": AUTO,
    }


MISSING_80_GIB = ALLOCATION.replace("768.00 MiB", "40.25 GiB")


@pytest.mark.parametrize("fixed", [(), ("model_tokens",)], ids=["any length", "own length"])
@pytest.mark.parametrize("text", [ALLOCATION, MISSING_80_GIB], ids=["1 GiB", "80 GiB"])
def test_a_first_step_that_would_still_lack_memory_is_not_tried_again(text, fixed):
    """All levers save 1.2 GiB; 1 GiB and the share that vLLM leaves free are missing, or more."""
    start = replace(START, fixed=frozenset(fixed))
    assert lowered(failure(text, MEASURE), start) == {}


def test_a_shorter_length_alone_does_not_help_the_first_step():
    start = replace(START, fixed=frozenset({"batched_tokens", "sequences"}))
    assert lowered(failure(ALLOCATION, MEASURE), start) == {}


def test_of_an_unknown_kv_cache_the_engine_finds_the_length():
    """Not every model's is calculated before the start."""
    start = replace(START, kv_token_bytes=None)
    tokens = (8192 - -(-(MIB + MARGIN_BYTES) // TOKEN_BYTES)) // 256 * 256
    assert lowered(failure(NO_CACHE, available_bytes=-MIB), start) == {
        "batched_tokens": tokens,
        "model_tokens": AUTO,
    }


def test_graphs_that_do_not_fit_are_fewer():
    """A smaller batch would only give its memory to the KV cache."""
    graphs = len(START.graph_sizes)
    kept = graphs - -(-GIB // (2 * GIB // graphs))
    failed = failure(ALLOCATION, GRAPHS, graph_bytes=2 * GIB)
    assert lowered(failed) == {"graphs": START.graph_sizes[kept - 1]}


def test_without_room_for_a_graph_there_is_none_unless_the_user_wants_some():
    failed = failure(ALLOCATION, GRAPHS, graph_bytes=GIB)
    assert lowered(failed)["no_graphs"] == 1
    start = replace(START, min_graphs=1)
    assert lowered(failed, start) == {"graphs": 1, "sequences": 224}


def test_graphs_that_would_still_not_fit_are_not_tried_again():
    """Without any, what has failed is not done: that helps whatever is missing."""
    failed = failure(MISSING_80_GIB, GRAPHS)
    assert lowered(failed)["no_graphs"] == 1
    assert lowered(failed, replace(START, min_graphs=1)) == {}
    assert lowered(failed, replace(START, fixed=frozenset({"graphs"}))) == {}


def test_nothing_makes_the_weights_smaller():
    failed = failure(ALLOCATION, WEIGHTS)
    assert lowered(failed) == {}
    assert advice(shortage_of(failed, START), START).startswith("use a larger GPU")


# ---- SGLang's share of the memory

RESERVED_TOKEN_BYTES = 3 << 19
SGLANG = replace(
    START,
    batched_tokens=4096,
    graph_sizes=(1, 2, 4, 8, 12, 16, 24, 32, 40, 48),
    sequences=2048,
    model_tokens=8192,
    token_bytes=RESERVED_TOKEN_BYTES,
    sequence_bytes=4 * 8192,
    graph_bytes=48 * 2 * MIB,
    memory_fraction=0.684,
    min_batched_tokens=2048,
    min_graphs=1,
    settings={
        "batched_tokens": "CHUNKED_PREFILL_SIZE",
        "graphs": "CUDA_GRAPH_MAX_BS_DECODE",
        "sequences": "MAX_RUNNING_REQUESTS",
        "memory_fraction": "MEM_FRACTION_STATIC",
    },
    total_bytes=24 * GIB,
)
NO_SHARE = (
    "ValueError: Loaded weights leave no GPU memory for the KV cache under --mem-fraction-static="
    "0.684. Raise --mem-fraction-static above 0.700 (minimum viable = 1 - available/pre = 0.7000). "
    "If using speculative decoding, draft weights are now counted."
)
NO_PAGE = "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static."
CAPTURE = f"Exception: Capture cuda graph failed: {ALLOCATION} Possible solutions: 1. set"


def test_a_share_that_the_weights_exceed_grows_by_what_a_smaller_batch_reserves_less():
    """One request of the whole context has room then."""
    missing = int((0.7 - 0.684) * 24 * GIB) + MARGIN_BYTES + 8192 * (128 << 10)
    tokens = (4096 - -(-missing // RESERVED_TOKEN_BYTES)) // 256 * 256
    saved = (4096 - tokens) * RESERVED_TOKEN_BYTES
    assert lowered(failure(NO_SHARE, KV_CACHE), SGLANG) == {
        "batched_tokens": tokens,
        "memory_fraction": round(0.684 + saved / (24 * GIB), 3),
    }


def test_where_that_is_not_enough_for_the_context_it_is_for_a_short_one():
    start = replace(SGLANG, model_tokens=131072)
    missing = MARGIN_BYTES + 2048 * (128 << 10)
    tokens = (4096 - -(-missing // RESERVED_TOKEN_BYTES)) // 256 * 256
    assert lowered(failure(NO_PAGE, KV_CACHE), start)["batched_tokens"] == tokens


def test_weights_that_no_share_holds_are_not_tried_again():
    text = NO_SHARE.replace("0.7000)", "0.9900)")
    assert lowered(failure(text, KV_CACHE), SGLANG) == {}


def test_a_share_that_the_user_has_set_stays():
    start = replace(SGLANG, fixed=frozenset({"memory_fraction", "sequences"}))
    failed = failure(NO_PAGE, KV_CACHE)
    assert lowered(failed, start) == {}
    assert advice(shortage_of(failed, start), start).startswith("raise MEM_FRACTION_STATIC, or use")


@pytest.mark.parametrize("step", [GRAPHS, KV_CACHE])
def test_beside_the_share_the_kv_cache_gives_what_is_missing(step):
    share = round(0.684 - 1 / 24, 3)
    assert lowered(failure(CAPTURE, step), SGLANG) == {"memory_fraction": share}


def test_a_share_is_not_lowered_below_what_the_weights_need():
    """And one request of 2,048 tokens."""
    needed = int((0.684 - 1 / 24) * 24 * GIB) - 2048 * (128 << 10)
    enough = replace(SGLANG, weight_bytes=needed - 16 * MIB)
    assert lowered(failure(CAPTURE, GRAPHS), enough)
    assert lowered(failure(CAPTURE, GRAPHS), replace(enough, weight_bytes=needed + 16 * MIB)) == {}


def test_where_the_user_has_set_the_share_graphs_are_fewer_and_then_sequences():
    start = replace(SGLANG, fixed=frozenset({"memory_fraction"}), sequence_bytes=MIB)
    # A tenth of 96 MiB is kept for one graph; the rest is 1,024 - 86 sequences.
    assert lowered(failure(CAPTURE, GRAPHS), start) == {"graphs": 1, "sequences": 1104}
    fixed = replace(start, fixed=frozenset(start.settings))
    assert lowered(failure(CAPTURE, GRAPHS), fixed) == {}
    too_few = replace(start, sequence_bytes=4 * 8192)
    assert lowered(failure(CAPTURE, GRAPHS), too_few) == {}


def test_a_kv_cache_beside_a_given_share_gets_nothing_from_graphs_that_are_not_there_yet():
    start = replace(SGLANG, fixed=frozenset({"memory_fraction"}), sequence_bytes=MIB)
    assert lowered(failure(CAPTURE, KV_CACHE), start) == {"sequences": 1024}


def test_without_a_known_gpu_there_is_no_share_to_calculate():
    assert lowered(failure(NO_PAGE, KV_CACHE), replace(SGLANG, total_bytes=0)) == {}


# ---- what is said of it


def test_a_length_that_the_engine_has_kept_is_not_lowered():
    lowered_settings = (
        LoweredSetting("MAX_NUM_BATCHED_TOKENS", 8192, 512),
        LoweredSetting("ENFORCE_EAGER", 0, 1),
        LoweredSetting("MAX_LEN", 131072, AUTO),
    )
    found = {"MAX_NUM_BATCHED_TOKENS": 512, "ENFORCE_EAGER": 1}
    assert values(lowered_settings, 131072) == found
    assert values(lowered_settings, 74560) == found | {"MAX_LEN": 74560}


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (LoweredSetting("MAX_NUM_SEQS", 256, 64), "MAX_NUM_SEQS 256 → 64"),
        (LoweredSetting("MAX_LEN", 131072, AUTO), "MAX_LEN 131072 → what fits"),
        (LoweredSetting("MEM_FRACTION_STATIC", 0.83, 0.8), "MEM_FRACTION_STATIC 0.83 → 0.8"),
    ],
    ids=["lower", "what fits", "share"],
)
def test_a_lowered_setting_says_both_values(setting, text):
    assert str(setting) == text


@pytest.mark.parametrize(
    "text", ["AcceleratorError: CUDA error: out of memory", ALLOCATION], ids=["CUDA", "PyTorch"]
)
def test_a_gpu_that_another_process_holds_is_the_hosts(text):
    """The same error of a later step is that of every such GPU."""
    assert not is_lasting(failure(text, DEVICE))
    assert is_lasting(failure(text, GRAPHS))


FULL = (
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB. GPU 0 has a total capacity "
    "of 24.00 GiB of which 0 bytes is free. "
)
OTHER = "Process 77 has 20.00 GiB memory in use. "
OWN = "Including non-PyTorch memory, this process has {} memory in use. "
PYTORCH = (
    "Of the allocated memory {} is allocated by PyTorch, with 32.00 MiB allocated in private pools "
    "(e.g., CUDA Graphs), and {} is reserved by PyTorch but unallocated. If reserved but "
)


@pytest.mark.parametrize(
    ("text", "lasting"),
    [
        (FULL + OTHER + OWN.format("4.00 GiB"), False),
        (FULL + OWN.format("23.90 GiB"), True),
        # In a container NVML's numbers are those of the host.
        (FULL + OTHER + PYTORCH.format("3.50 GiB", "12.00 MiB"), False),
        (FULL + OTHER.replace("20", "23.90") + PYTORCH.format("22.10 GiB", "640.00 MiB"), True),
        (FULL + OTHER, True),
    ],
    ids=["other process", "this process", "other in a container", "this in a container", "unknown"],
)
def test_memory_that_other_processes_hold_is_the_hosts_at_every_step(text, lasting):
    """The weights of SGLang are loaded without a check of what is free."""
    assert is_lasting(failure(text, WEIGHTS)) is lasting


def test_other_errors_of_a_shortage_are_those_of_every_such_gpu():
    assert is_lasting(failure(NO_CACHE))
    assert is_lasting(failure("RuntimeError: Not enough memory. Please try to increase"))
    assert not is_lasting(failure("RuntimeError: what nobody knows"))
