"""Compare Strake with other gateways in one run: `make bench`, or `python -m bench --help`.

Each gateway has one core. Provider and load generator share the other. Rounds are interleaved, so that a machine that
changes speed affects all gateways: compare the ratios. Needs `wrk`, and `nginx` for its row.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import gateways
from bench.gateways import LOAD_CORE, ROOT, Gateway

CONNECTIONS = (1, 32, 256)
BODY = '{"model":"gpt-4o","messages":[{"role":"user","content":"Hello there. How are you today? Answer briefly."}]}'


def measure(gateway: Gateway, connections: int, seconds: int) -> dict[str, float]:
    """Measure requests per second and latencies in ms with wrk."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="utf-8") as script:
        headers = {"content-type": "application/json", **gateway.headers}
        lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
        script.write("\n".join(['wrk.method = "POST"', f"wrk.body = {json.dumps(BODY)}", *lines]))
        script.flush()
        command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        target = f"{gateway.url}/v1/chat/completions"
        done = subprocess.run(
            [*command, "-s", script.name, target], capture_output=True, text=True, check=True, timeout=seconds + 60
        )
    out = done.stdout
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if bad or rate is None:
        raise RuntimeError(f"{gateway.name} returned errors: {out}")
    return {"rps": float(rate[1]), "p50": _latency(out, "50%"), "p99": _latency(out, "99%")}


def _latency(out: str, percentile: str) -> float:
    match = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)\b", out)
    if match is None:
        return float("nan")
    return float(match[1]) * {"us": 0.001, "ms": 1, "s": 1000}[match[2]]


def streams(gateway: Gateway, count: int) -> dict[str, float]:
    target = f"{gateway.url}/v1/chat/completions"
    headers = json.dumps({"content-type": "application/json", **gateway.headers})
    command = ["taskset", "-c", LOAD_CORE, sys.executable, "-m", "bench.streams", target, headers]
    done = subprocess.run([*command, str(count)], capture_output=True, text=True, check=True, cwd=ROOT, timeout=180)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--gateways", default=",".join(gateways.ALL), help="comma-separated (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="duration of each measurement (%(default)s)")
    parser.add_argument("--streams", type=int, default=1000, help="concurrent streams, 0 for none (%(default)s)")
    parser.add_argument(
        "--tokens", default="100,10000,1000000", help="numbers of tokens in the database, empty for none (%(default)s)"
    )
    options = parser.parse_args()
    chosen = options.gateways.split(",")
    results: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    lines: list[str] = []
    with gateways.provider() as direct:
        for round_number in range(options.rounds):
            for name in chosen:
                # One at a time, since even an idle gateway has timers and garbage to collect.
                with gateways.ALL[name]() as gateway:
                    for connections in CONNECTIONS:
                        measure(gateway, connections, 1)
                        for subject in (direct, gateway):
                            for key, value in measure(subject, connections, options.seconds).items():
                                results[name][f"{'direct ' if subject is direct else ''}{key} {connections}"].append(
                                    value
                                )
                    results[name]["memory"].append(gateway.memory_mb())
            _log(f"round {round_number + 1} of {options.rounds} done")
        lines += table(chosen, results)
        if options.streams:
            lines += stream_table(chosen, direct, options.streams)
        if options.tokens:
            lines += token_table([int(count) for count in options.tokens.split(",")], options)
    report = "\n".join(lines)
    folder = ROOT / "bench" / "results"
    folder.mkdir(exist_ok=True)
    Path(folder, "latest.md").write_text(report + "\n", encoding="utf-8")
    sys.stdout.write(report + "\n")


def table(chosen: list[str], results: dict[str, dict[str, list[float]]]) -> list[str]:
    """Medians over the rounds. The added latency is relative to calling the provider directly just before."""
    lines = [
        "| gateway, one core | req/s, 1 conn. | 32 | 256 | added p50 at 1, ms | added p99 at 1 | p50 at 32 | p99 at 32 "
        "| memory, MB | Strake at 32 is |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in chosen:
        measured = results[name]

        def median(key: str, measured: dict[str, list[float]] = measured) -> float:
            return statistics.median(measured[key])

        def added(key: str, measured: dict[str, list[float]] = measured) -> float:
            pairs = zip(measured[key], measured[f"direct {key}"], strict=True)
            return statistics.median([through - direct for through, direct in pairs])

        ratio = "-"
        if name != "strake" and "strake" in results:
            pairs = zip(results["strake"]["rps 32"], measured["rps 32"], strict=True)
            ratio = f"{statistics.median([strake / other for strake, other in pairs]):.2f}-fold"
        lines.append(
            f"| {name} | {median('rps 1'):,.0f} | {median('rps 32'):,.0f} | {median('rps 256'):,.0f} "
            f"| {added('p50 1'):.2f} | {added('p99 1'):.2f} | {median('p50 32'):.1f} | {median('p99 32'):.1f} "
            f"| {median('memory'):.0f} | {ratio} |"
        )
    return lines


def stream_table(chosen: list[str], direct: Gateway, count: int) -> list[str]:
    lines = [
        "",
        f"| {count} concurrent streams | completed | first byte p50, ms | event p50, ms | event p99, ms | KB each |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in ["direct", *chosen]:
        with ExitStack() as stack:
            gateway = direct if name == "direct" else stack.enter_context(gateways.ALL[name]())
            streams(gateway, 10)
            before = gateway.memory_mb()
            peak: list[float] = []
            with _sampled(gateway, peak):
                outcome = streams(gateway, count)
            each = (max(peak, default=before) - before) * 1024 / count
            figures = [outcome["first_byte_ms"], outcome["event_p50_ms"], outcome["event_p99_ms"], each]
            shown = [f"{figure:.1f}" if outcome["whole"] else "-" for figure in figures]
            completed = f"{outcome['completed']:.0f} of {outcome['asked']:.0f}"
            lines.append(f"| {name} | {completed} | {' | '.join(shown)} |")
    return lines


def token_table(counts: list[int], options: argparse.Namespace) -> list[str]:
    lines = ["", "| tokens in the database | req/s, 32 conn. | p50, ms |", "| --- | --- | --- |"]
    for count in counts:
        with gateways.strake(tokens=count) as gateway:
            measure(gateway, 32, 1)
            rounds = [measure(gateway, 32, options.seconds) for _ in range(3)]
        rps = statistics.median([result["rps"] for result in rounds])
        lines.append(f"| {count:,} | {rps:,.0f} | {statistics.median([result['p50'] for result in rounds]):.1f} |")
    return lines


@contextmanager
def _sampled(gateway: Gateway, into: list[float]) -> Iterator[None]:
    """Sample the gateway's memory twice a second."""
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.5):
            into.append(gateway.memory_mb())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _log(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
