"""Which GPUs fit a model, how many requests it holds there, and what that costs.

    python -m builder plan Qwen/Qwen3-8B-FP8 --context 16384 --concurrency 32

reads config.json and the headers of the weights, on the hub or in a folder, and downloads no
weights. It prints a table of Runpod's GPUs, and the environment for the one with the lowest price
per second. A gated repository needs HF_TOKEN in the environment.

  weights     on each GPU
  reserve     on each GPU, for CUDA, graphs and the activations of one step; an estimate
  KV cache    what is left of 92 % of each GPU's memory
  context     tokens of the longest request that fits alone
  requests    usual requests (--tokens-per-request) that fit at once: a first MAX_NUM_SEQS
  tok/s       decoded tokens per second at most, from the memory's bandwidth: of one request
              alone (each), and of all requests that fit (all)
  $/M tokens  price of a million generated tokens, on a flex worker that is always full

Exit codes: 0 a plan, even if no GPU fits; 2 an invalid argument, or a checkpoint that cannot be
planned; 3 the hub refuses the model, or its layers are of an unknown kind.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence

from builder.cli import Console, command_parser, run_command, whole_number
from builder.errors import InvalidArgument
from builder.fetch.request import hub_token
from builder.plan.architecture import BF16_BYTES, Architecture, parse_architecture
from builder.plan.estimate import Estimator, Workload
from builder.plan.gpus import GPU_COUNTS, load_gpu_table
from builder.plan.model_metadata import read_model_metadata
from builder.plan.report import Plan, plan_as_json, plan_as_text
from builder.plan.weights import measure_weights
from handler.model.checkpoint import model_named_in_errors
from handler.model.reference import HubReference

DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_REQUEST_TOKENS = 2048


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Print the plan, or one line on stderr for an error."""
    options = _parser().parse_args(argv)

    def work(console: Console) -> None:
        plan = _make_plan(options, environ)
        if options.json:
            console.print(json.dumps(plan_as_json(plan), indent=2))
        else:
            console.print(plan_as_text(plan, show_all=options.gpu is not None))

    return run_command("plan", work)


def _make_plan(options: argparse.Namespace, environ: Mapping[str, str]) -> Plan:
    """Estimate the model on every number of GPUs of every pool."""
    table = load_gpu_table()
    pools = table.pools if options.gpu is None else table.find_pools(options.gpu)
    metadata = read_model_metadata(
        HubReference(options.model, options.revision, "MODEL", hub_token(environ)).resolve_url()
    )
    with model_named_in_errors(metadata.name):
        model = parse_architecture(metadata.config)
    weights = measure_weights(metadata, options.quantization)
    workload = _workload(options, model, metadata.has_fp8_cache)
    estimator = Estimator(model, weights, workload)
    estimates = tuple(estimator.estimate(pool, gpus) for pool in pools for gpus in GPU_COUNTS)
    return Plan(metadata, model, weights, workload, table.date, estimates)


def _workload(options: argparse.Namespace, model: Architecture, has_fp8_cache: bool) -> Workload:
    own = model.context_tokens or DEFAULT_CONTEXT_TOKENS
    context = options.context or min(own, DEFAULT_CONTEXT_TOKENS)
    request = options.tokens_per_request or min(context, DEFAULT_REQUEST_TOKENS)
    if request > context:
        raise InvalidArgument(
            f"--tokens-per-request {request} must not be more than --context {context}, the "
            "longest request."
        )
    sets_fp8_cache = options.kv_dtype == "fp8"
    return Workload(
        context_tokens=context,
        request_tokens=request,
        concurrency=options.concurrency,
        kv_element_bytes=1 if sets_fp8_cache or has_fp8_cache else BF16_BYTES,
        sets_fp8_cache=sets_fp8_cache,
    )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("plan", str(__doc__))
    add, count = parser.add_argument, whole_number(1)
    add("model", help="org/name on the hub, or a folder")
    add("--revision", help="branch, tag or commit (default: main)")
    add(
        "--context",
        type=count,
        metavar="N",
        help="tokens of the longest request (default: the model's own context, at most "
        f"{DEFAULT_CONTEXT_TOKENS})",
    )
    add(
        "--concurrency",
        type=count,
        default=1,
        metavar="N",
        help="usual requests that must fit at once (default: 1)",
    )
    add(
        "--tokens-per-request",
        type=count,
        metavar="N",
        help="tokens of a usual request, prompt and answer together (default: the context, at most "
        f"{DEFAULT_REQUEST_TOKENS})",
    )
    add(
        "--quantization",
        choices=("auto", "awq", "fp8", "bf16"),
        default="auto",
        help="planned method of an unquantized checkpoint (default: auto, no quantization)",
    )
    add(
        "--kv-dtype",
        choices=("auto", "fp8"),
        default="auto",
        help="type of the KV cache (default: auto, 16 bits unless the checkpoint has FP8)",
    )
    add("--gpu", metavar="NAME", help="only this GPU or pool: H100, 4090, ADA_48_PRO …")
    add("--json", action="store_true", help="print everything as JSON")
    return parser
