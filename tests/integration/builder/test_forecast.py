"""`python -m builder plan --traffic`: what a day costs, from each source of traffic."""

import json
import re
import signal
import subprocess
import sys
import time
from urllib.request import urlopen

import psutil
import pytest

from tests.support.environment import ROOT, clean_environment
from tests.support.header_checkpoints import header_checkpoint
from tests.support.prometheus import install, promtool, running_prometheus
from tests.support.runpod_api import KEY, running_runpod_api

# Constant lengths and speeds: one second of prefill, ten of decode.
MEASURED = ["--prompt", "1000,0", "--answer", "500,0", "--speed", "1:50", "--prefill-speed", "1000"]
PLACE = ["--gpu", "H200", "--context", "4096"]
H200 = {"flex": 5.93, "pod": 4.59}  # dollars an hour


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return header_checkpoint(tmp_path_factory.mktemp("model"), 8_000_000_000)


def plan(model, *arguments, **environ):
    command = [sys.executable, "-m", "builder", "plan", str(model), *PLACE, *map(str, arguments)]
    environment = clean_environment(**environ)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def answer(model, *arguments, **environ):
    """Return the forecast for one H200, and its deployments by kind."""
    code, out, err = plan(model, *MEASURED, *arguments, "--json", **environ)
    assert (code, err) == (0, "")
    forecast = json.loads(out)
    [gpu] = [each for each in forecast["gpus"] if each["name"].startswith("1 ×")]
    return forecast, {each["kind"]: each for each in gpu["deployments"]}


def test_a_log_is_a_day_of_its_requests(model, tmp_path):
    """Twelve requests within a minute of nine o'clock, and one cold start of 100 s."""
    log = tmp_path / "access.log"
    log.write_text("".join(f"2026-11-29T09:00:{second:02} ok\n" for second in range(0, 60, 5)))
    forecast, kinds = answer(model, "--traffic", log, "--cold-start", "100", "--flashboot", "0")
    assert forecast["traffic"]["source"] == "access.log, 2026-11-29"
    assert forecast["traffic"]["requests_per_day"] == pytest.approx(12)
    flex, pods = kinds["flex"], kinds["Pods"]
    assert (flex["min_workers"], flex["cold_starts"] >= 1) == (0, True)
    assert pods["dollars_per_day"] == pytest.approx(24 * H200["pod"])
    assert flex["dollars_per_day"] == pytest.approx(flex["paid_seconds"] / 3600 * H200["flex"])
    saving = kinds["Pods, savings plan"]
    assert saving["dollars_per_day"] == pytest.approx(0.85 * pods["dollars_per_day"])
    assert saving["wait_seconds"] == pods["wait_seconds"]


def test_the_table_says_what_it_rests_on_and_which_is_the_cheapest(model):
    code, out, err = plan(model, "--traffic", "30@09:00,6@03:00", "--slo-p95", "3600")
    assert (code, err) == (0, "")
    assert out.startswith("traffic   30@09:00,6@03:00: 432 requests a day, 30 an hour at most\n")
    assert "lengths   prompt 1000 tokens (exponential), answer 300 tokens (exponential)\n" in out
    columns = r"^deployment +\$/day +\$/month +wait p50 +p95 +p99 +worst hour +done p95 +paid +idle"
    assert re.search(columns, out, re.M)
    assert "Estimates, not measurements: decode speed, prefill speed, cold start." in out
    assert "A Pod costs 77 % of a flex worker. At a steady rate it is cheaper from " in out
    assert "The 2 GPUs whose workers cost the least at the peak, of 4 that fit" in out
    assert re.search(
        r"\nCheapest where 95 % wait at most 3600 s for the first token: 1 × H200", out
    )


def test_what_nothing_meets_is_said(model):
    code, out, _ = plan(
        model,
        "--traffic",
        "1@00:00",
        "--slo-p95",
        "0.001",
        "--prompt",
        "4000,0",
        *["--answer", "1"],
    )
    assert code == 0
    assert out.endswith(
        "None of these meets the SLO: 95 % wait at most 0.001 s for the first token.\n"
    )


def test_the_workers_over_the_day_are_shown(model, tmp_path):
    hour = tmp_path / "hour.csv"
    hour.write_text("09:00,3600\n10:00,0\n")
    code, out, err = plan(model, "--traffic", hour, "--max-workers", "1")
    assert (code, err) == (0, "")
    means = " ".join(["0.0"] * 9 + ["1.0"] + ["0.0"] * 14)
    line = f"workers in the hours from midnight, flex, 0 to 1: {means}"
    # One of each GPU; the others always run.
    assert [each for each in out.splitlines() if each.startswith("workers in")] == [line] * 2


def test_the_picture_is_written_without_a_folder_for_caches(model, tmp_path):
    picture = tmp_path / "day.svg"
    arguments = ("--traffic", "60@12:00", "--plot", picture)
    code, _, err = plan(model, *arguments, MPLCONFIGDIR="/dev/null/matplotlib")
    assert (code, err) == (0, "")
    assert picture.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--traffic", "1000"], "plan: --traffic: '1000' must be requests an hour at a time of "),
        (
            ["--traffic", "http://127.0.0.1:1"],
            "plan: --traffic http://127.0.0.1:1 is no Prometheus",
        ),
        (["--plot", "day.svg"], "plan: --plot draws a day of traffic: give --traffic."),
        (["--traffic", "0@00:00"], "plan: --traffic 0@00:00: 0 requests a day cannot be simulated"),
        (
            ["--traffic", "1000000@00:00"],
            "plan: --traffic 1000000@00:00: 24,000,000 requests a day ",
        ),
        (["--traffic", "1@00:00", "--workload", "chat"], "plan: --workload and --traffic answer "),
        (
            ["--traffic", "1@00:00", "--prompt", "9000"],
            "plan: --prompt plus --answer 9300 must not be more than --context 4096",
        ),
        (["--traffic", "1@00:00", "--gpu", "4090"], "plan: --traffic: no GPU fits"),
    ],
    ids=["text", "no Prometheus", "plot", "none", "many", "kind", "long", "no GPU"],
)
def test_what_cannot_be_answered_is_one_line(model, tmp_path, arguments, error):
    if "4090" in arguments:
        model = header_checkpoint(tmp_path, 800_000_000_000)
    code, _, err = plan(model, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(error)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--prompt", "many"),
        ("--slo-p95", "0"),
        ("--speed", "16"),
        ("--savings-plan", "100"),
        ("--max-workers", "0"),
        ("--flashboot", "-1"),
        ("--prompt", "1200,1e200"),
        ("--plot", "day.mp3"),
        ("--plot", "no/such/day.svg"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused(model, argument, value):
    code, _, err = plan(model, "--traffic", "1@00:00", f"{argument}={value}")
    assert code == 2
    assert f"argument {argument}: {value!r}" in err
    assert " must " in err


def test_a_password_in_the_address_of_a_prometheus_is_not_shown(model):
    code, out, err = plan(model, "--traffic", "http://user:a-secret@127.0.0.1:1")
    assert (code, out) == (2, "")
    assert err.startswith("plan: --traffic http://***@127.0.0.1:1 is no Prometheus that answers")
    assert "a-secret" not in err


def test_a_worker_takes_no_more_requests_than_were_measured(model):
    """Fifty tokens a second with one request, of ten seconds each and one of prefill."""
    forecast, _ = answer(model, "--traffic", "20@00:00")
    [gpu] = forecast["gpus"]
    assert gpu["requests_per_hour"] == pytest.approx(3600 / 11)


def test_speeds_are_of_one_gpu(model):
    command = [sys.executable, "-m", "builder", "plan", str(model), "--speed", "1:50"]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.startswith("plan: --speed and --prefill-speed")) == (
        2,
        True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("seconds", [0, 1], ids=["while they start", "while they simulate"])
def test_a_signal_ends_a_simulation_with_all_its_processes(model, number, seconds):
    """The signal comes that long after the first of them was forked."""
    script = f"""
import os, runpy, threading

fork = os.fork
children = []

def signal():
    os.kill(os.getpid(), {int(number)})

def fork_and_signal():
    child = fork()
    if child:
        print(child, flush=True)
        children.append(child)
        if len(children) == 1:
            threading.Timer({seconds}, signal).start() if {seconds} else signal()
    return child

os.fork = fork_and_signal
runpy.run_module("builder", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "plan", str(model), *PLACE, "--traffic", "80000@00:00"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    first, last = done.stderr.splitlines()
    assert first.startswith("plan: simulating 1920000 requests on 2 kinds")
    assert (done.returncode, last) == (1, "plan: interrupted")
    children = [int(line) for line in done.stdout.splitlines()]
    assert children != []
    assert [child for child in children if psutil.pid_exists(child)] == []


def test_prices_of_now_come_from_the_catalog_of_the_api(model):
    def gpu(name, pool, **price):
        return {"id": f"NVIDIA {name}", "name": name, "pool": pool, "price": price}

    with running_runpod_api() as api:
        api.gpus = [
            gpu("H200", "HOPPER_141", secure=3.0, community=0, serverless=6.0),
            gpu("H200 MIG 1g", "HOPPER_141", secure=0.3, community=0, serverless=0.6),
            gpu("RTX 4090", "ADA_24", secure=0.5, community=0.3, serverless=1.0),
            gpu("something new", None, secure=9.0, community=0),
        ]
        environ = {"RUNPOD_API_KEY": KEY, "RUNPOD_API_URL": api.url}
        _, kinds = answer(model, "--traffic", "1@00:00", "--prices", "live", **environ)
        assert kinds["Pods"]["dollars_per_day"] == pytest.approx(72)
        flex = kinds["flex"]
        assert flex["dollars_per_day"] == pytest.approx(flex["paid_seconds"] * 6 / 3600)
        code, out, _ = plan(model, "--prices", "live", **environ)
        assert code == 0
        assert "UTC, live." in out
    code, _, err = plan(model, "--prices", "live")
    assert (code, err.startswith("plan: RUNPOD_API_KEY is not set")) == (3, True)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A Prometheus with a day of a worker: 0.1 requests a second from 9 to 10 o'clock UTC."""
    install()
    folder = tmp_path_factory.mktemp("prometheus")
    now = time.time() // 60 * 60
    lines = {name: [] for name in ("requests", "prompt", "answer")}
    counts = dict.fromkeys(lines, 0.0)
    buckets = {"prompt": ("1000", "2000", "+Inf"), "answer": ("100", "200", "+Inf")}
    for minute in range(24 * 60 + 10):
        at = now - (24 * 60 + 10 - minute) * 60
        if 9 <= at % 86400 / 3600 < 10:
            counts["requests"] += 6
        labels = 'endpoint="e",worker="w"'
        done = counts["requests"]
        lines["requests"].append(
            f'llm_worker_requests_total{{{labels},route="/v1/chat/completions",outcome="ok"}} '
            f"{done} {at}"
        )
        for of, name in (
            ("prompt", "vllm:request_prompt_tokens"),
            ("answer", "vllm:request_generation_tokens"),
        ):
            for limit, share in zip(buckets[of], (0, 1, 1), strict=True):
                lines[of].append(f'{name}_bucket{{{labels},le="{limit}"}} {done * share} {at}')
            lines[of] += [f"{name}_count{{{labels}}} {done} {at}"]
    metrics = [
        "# TYPE llm_worker_requests counter",
        *lines["requests"],
        *_by_series("vllm:request_prompt_tokens", lines["prompt"]),
        *_by_series("vllm:request_generation_tokens", lines["answer"]),
        "# EOF",
    ]
    (folder / "day.txt").write_text("\n".join(metrics) + "\n")
    code, out = promtool(
        "tsdb", "create-blocks-from", "openmetrics", folder / "day.txt", folder / "data"
    )
    assert code == 0, out
    config = folder / "prometheus.yml"
    config.write_text("global: {}\n")
    with running_prometheus(config) as running:
        yield running


def _by_series(name, lines):
    """Return the lines of a histogram in the order that OpenMetrics asks for."""
    return [f"# TYPE {name} histogram", *sorted(lines, key=lambda line: line.rpartition(" ")[2])]


def test_the_traffic_and_lengths_of_a_running_worker_come_from_prometheus(model, prometheus):
    code, out, err = plan(model, "--traffic", prometheus.url, "--json")
    assert (code, err) == (0, "")
    forecast = json.loads(out)
    assert forecast["traffic"]["source"] == f"{prometheus.url}, the last 24 hours"
    assert forecast["traffic"]["requests_per_day"] == pytest.approx(360, rel=0.1)
    assert forecast["traffic"]["peak_requests_per_hour"] == pytest.approx(360, rel=0.1)
    assert forecast["prompt_tokens"] == {"mean": pytest.approx(1500), "variation": pytest.approx(0)}
    assert forecast["answer_tokens"] == {"mean": pytest.approx(150), "variation": pytest.approx(0)}


def test_a_prometheus_without_requests_is_said(model, tmp_path):
    install()
    config = tmp_path / "prometheus.yml"
    config.write_text("global: {}\n")
    with running_prometheus(config) as empty:
        assert urlopen(f"{empty.url}/-/ready").status == 200
        code, _, err = plan(model, "--traffic", empty.url)
    assert (code, err) == (2, f"plan: --traffic {empty.url}: there were no requests in 24 hours.\n")
