"""Which GPU fits a model, how many requests it holds, and what that costs.

    python -m builder plan Qwen/Qwen3-8B-FP8 --context 16384 --concurrency 32

reads config.json and the headers of the weights, on the hub or in a folder, and downloads no
weights. It prints a row for each kind of GPU that Runpod has, and the environment to paste for the
one that costs least a second. A gated repository needs HF_TOKEN in the environment.

  weights     on each GPU
  reserve     for CUDA, graphs and the activations of one step, an estimate
  KV cache    what is left on each GPU; 92 % of its memory are used
  context     tokens of the longest request that fits alone
  requests    usual ones (--tokens-per-request) that fit at once: a first MAX_NUM_SEQS
  tok/s       decoded, of one request and of all of them, at the memory's bandwidth
  $/M tokens  written, of a flex worker that is always full

Exit codes: 0 a plan, even where nothing fits; 2 a wrong argument, or a model that is refused; 3 the
hub does not give it, or its layers are of a kind that is not known here.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence

from builder.cli import Console, command_parser, run_command, whole_number
from builder.errors import InvalidArgument
from builder.fetch.request import hub_token
from builder.plan.cards import COUNTS, chosen, table
from builder.plan.estimate import Wanted, row
from builder.plan.report import Plan, as_json, as_text
from builder.plan.source import read
from builder.plan.weights import weights
from handler.errors import ModelUnavailable
from handler.memory.architecture import ELEMENT_BYTES, Architecture, architecture
from handler.model.reference import HubReference

CONTEXT_TOKENS = 8192
REQUEST_TOKENS = 2048


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Print the plan; one line on stderr if there is none."""
    options = _parser().parse_args(argv)

    def work(console: Console) -> None:
        made = plan(options, environ)
        if options.json:
            console.print(json.dumps(as_json(made), indent=2))
        else:
            console.print(as_text(made, everything=options.gpu is not None))

    return run_command("plan", work)


def plan(options: argparse.Namespace, environ: Mapping[str, str]) -> Plan:
    """Find out about a model and estimate it on every kind of GPU.

    Raises:
        InvalidArgument: an argument, or the checkpoint, means nothing here.
        ModelUnavailable, InvalidSetting: the hub's refusal, or a model that is not understood.
    """
    cards = table()
    shown = cards.cards if options.gpu is None else chosen(cards.cards, options.gpu)
    source = read(HubReference(options.model, options.revision, "MODEL", hub_token(environ)))
    try:
        model = architecture(source.config)
    except ModelUnavailable as error:
        raise ModelUnavailable(f"{source.name}: {error}.") from error
    size = weights(source, options.quantization)
    wanted = _wanted(options, model, source.has_fp8_cache)
    rows = tuple(row(model, size, wanted, card, gpus) for card in shown for gpus in COUNTS)
    return Plan(source, model, size, wanted, cards, rows)


def _wanted(options: argparse.Namespace, model: Architecture, has_fp8_cache: bool) -> Wanted:
    own = model.context_tokens or CONTEXT_TOKENS
    context = options.context or min(own, CONTEXT_TOKENS)
    request = options.tokens_per_request or min(context, REQUEST_TOKENS)
    if request > context:
        raise InvalidArgument(
            f"--tokens-per-request {request} is more than --context {context}, the most that a "
            "request may have."
        )
    asks = options.kv_dtype == "fp8"
    element_bytes = 1 if asks or has_fp8_cache else ELEMENT_BYTES
    return Wanted(context, request, options.concurrency, element_bytes, asks)


def _parser() -> argparse.ArgumentParser:
    made = command_parser("plan", str(__doc__))
    add = made.add_argument
    add("model", help="org/name on the hub, or a folder")
    add("--revision", help="branch, tag or commit (main)")
    add(
        "--context",
        type=whole_number(1),
        metavar="N",
        help=f"tokens of the longest request (the model's own, {CONTEXT_TOKENS} at most)",
    )
    add(
        "--concurrency",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="requests at once that have to fit (1)",
    )
    add(
        "--tokens-per-request",
        type=whole_number(1),
        metavar="N",
        help="of a usual request, prompt and "
        f"answer together (the context, {REQUEST_TOKENS} at most)",
    )
    add(
        "--quantization",
        choices=("auto", "awq", "fp8", "bf16"),
        default="auto",
        help="auto is the checkpoint's; the others of an unquantized one (auto)",
    )
    add(
        "--kv-dtype",
        choices=("auto", "fp8"),
        default="auto",
        help="of the KV cache (auto: 16 bits)",
    )
    add("--gpu", metavar="NAME", help="only these, with every count: H100, 4090, ADA_48_PRO …")
    add("--json", action="store_true", help="everything, for programs")
    return made


if __name__ == "__main__":
    sys.exit(main())
