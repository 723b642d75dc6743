"""Which GPUs fit a model, how many requests it holds there, and what that costs.

    python -m builder plan Qwen/Qwen3-8B-FP8 --context 16384 --concurrency 32

reads config.json and the headers of the weights, on the hub or in a folder, and downloads no
weights. It prints a table of Runpod's GPUs, and the environment for the one with the lowest price
per second. A gated repository needs HF_TOKEN in the environment. With --workload it also prints
settings for a kind of requests, and with --traffic it simulates a day instead.

  weights     on each GPU
  reserve     on each GPU, for CUDA, graphs and the activations of one step; an estimate
  KV cache    what is left of 92 % of each GPU's memory
  context     tokens of the longest request that fits alone
  requests    usual requests (--tokens-per-request) that fit at once: a first MAX_NUM_SEQS
  tok/s       decoded tokens per second at most, from the memory's bandwidth: of one request
              alone (each), and of all requests that fit (all)
  $/M tokens  price of a million generated tokens, on a flex worker that is always full

Exit codes: 0 a plan, even if no GPU fits; 2 an invalid argument, or a checkpoint that cannot be
planned; 3 the hub refuses the model, its layers are of an unknown kind, or RUNPOD_API_KEY is
missing or not valid (--prices live); 7 Runpod's API cannot be reached.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence

from builder.cli import Console, command_parser, run_command, whole_number
from builder.errors import InvalidArgument
from builder.fetch.request import hub_token
from builder.plan.architecture import BF16_BYTES, Architecture, parse_architecture
from builder.plan.estimate import GPU_COUNTS, Estimator, Workload
from builder.plan.model_metadata import read_model_metadata
from builder.plan.prices import live_prices
from builder.plan.report import Plan, plan_as_json, plan_as_text
from builder.plan.weights import measure_weights
from builder.plan.workload_kinds import KINDS
from builder.traffic.arguments import add_arguments
from builder.traffic.demand import Demand, read_demand
from handler.gpu_pools import GpuPool, GpuTable, load_gpu_table
from handler.model.checkpoint import model_named_in_errors
from handler.model.reference import HubReference

PRICES = "of the dated file, or of now, from Runpod's API with RUNPOD_API_KEY (default: file)"
DEFAULT_CONTEXT_TOKENS = 8192
DEFAULT_REQUEST_TOKENS = 2048


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Print the plan, or one line on stderr for an error."""
    options = _parser().parse_args(argv)

    def work(console: Console) -> None:
        _check_together(options)
        demand = None if options.traffic is None else read_demand(options)
        plan, estimator = _make_plan(options, environ, console, demand)
        if demand is not None:
            _print_forecast(options, demand, plan, estimator, console)
        elif options.json:
            console.print(json.dumps(plan_as_json(plan), indent=2))
        else:
            console.print(plan_as_text(plan, show_all=options.gpu is not None))

    return run_command("plan", work)


def _check_together(options: argparse.Namespace) -> None:
    """Raise InvalidArgument for arguments that make no sense together."""
    if options.traffic is None and options.plot is not None:
        raise InvalidArgument("--plot draws a day of traffic: give --traffic.")
    if options.traffic is not None and options.workload is not None:
        raise InvalidArgument("--workload and --traffic answer different questions: give one.")
    if options.gpu is None and (options.speed or options.prefill_speed):
        raise InvalidArgument("--speed and --prefill-speed are of one GPU: name it with --gpu.")


def _print_forecast(
    options: argparse.Namespace,
    demand: Demand,
    plan: Plan,
    estimator: Estimator,
    console: Console,
) -> None:
    try:
        from builder.plan.forecast import make_forecast
        from builder.traffic.report import forecast_as_json, forecast_as_text, save_picture
    except ModuleNotFoundError as error:
        raise InvalidArgument(
            f"--traffic needs the package {error.name}: pip install -r requirements/plan.txt."
        ) from error
    forecast = make_forecast(options, demand, plan, estimator)
    if options.json:
        console.print(json.dumps(forecast_as_json(forecast), indent=2))
    else:
        console.print(forecast_as_text(forecast))
    if options.plot is not None:
        save_picture(forecast, options.plot)


def _make_plan(
    options: argparse.Namespace,
    environ: Mapping[str, str],
    console: Console,
    demand: Demand | None,
) -> tuple[Plan, Estimator]:
    """Estimate the model on every number of GPUs of every pool."""
    table = load_gpu_table()
    if options.prices == "live":
        table = live_prices(table, environ, console)
    pools = table.pools if options.gpu is None else _find_pools(table, options.gpu)
    metadata = read_model_metadata(
        HubReference(options.model, options.revision, "MODEL", hub_token(environ)).resolve_url()
    )
    with model_named_in_errors(metadata.name):
        model = parse_architecture(metadata.config)
    weights = measure_weights(metadata, options.quantization)
    workload = _workload(options, model, demand, has_fp8_cache=metadata.has_fp8_cache)
    estimator = Estimator(model, weights, workload)
    estimates = tuple(estimator.estimate(pool, gpus) for pool in pools for gpus in GPU_COUNTS)
    plan = Plan(metadata, model, weights, workload, table.date, estimates, options.workload)
    return plan, estimator


def _find_pools(table: GpuTable, text: str) -> tuple[GpuPool, ...]:
    if found := table.find_pools(text):
        return found
    known = "; ".join(f"{pool.name} ({pool.label})" for pool in table.pools)
    raise InvalidArgument(f"--gpu {text!r}: unknown GPU or pool. Known are {known}.")


def _workload(
    options: argparse.Namespace, model: Architecture, demand: Demand | None, *, has_fp8_cache: bool
) -> Workload:
    kind = KINDS.get(options.workload)
    longest, usual = DEFAULT_CONTEXT_TOKENS, DEFAULT_REQUEST_TOKENS
    if kind is not None:
        longest, usual = kind.context_tokens, kind.request_tokens
    context = options.context or min(model.context_tokens or longest, longest)
    if demand is not None:
        request, name = demand.request_tokens, "--prompt plus --answer"
    else:
        name = "--tokens-per-request"
        request = options.tokens_per_request or min(context, usual)
    if request > context:
        raise InvalidArgument(
            f"{name} {request} must not be more than --context {context}, the longest request."
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
    add("--workload", choices=KINDS, help="settings and engine for this kind of requests")
    add("--gpu", metavar="NAME", help="only this GPU or pool: H100, 4090, ADA_48_PRO …")
    add("--prices", choices=("file", "live"), default="file", help=PRICES)
    add("--json", action="store_true", help="print everything as JSON")
    add_arguments(parser)
    return parser
