"""Count the instructions that one forwarded request costs: `python -m bench.instructions`.

valgrind's callgrind counts what the processor is told to do, so the figure is the same on a noisy machine. The request
takes the whole way of an embedded Strake, from the client's bytes to the response's last byte, on one kept connection
each. Only the transports are fake: system calls and the event loop's input and output are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUESTS = 1000
WARM_UP = 100
DESTINATION = "http://127.0.0.1:9"
_VALGRIND = ("valgrind", "--tool=callgrind", "--instr-atstart=no")
_TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


def count(kind: str, requests: int = REQUESTS, *, profile: Path | None = None, metrics: bool = True) -> int:
    """Return the instructions per request of a kind in `bench.one_request`, with what its metrics cost.

    `profile` is where callgrind's file is kept, for callgrind_annotate.
    """
    with tempfile.TemporaryDirectory(prefix="strake-instructions-") as folder:
        out = profile or Path(folder, "callgrind.out")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STRAKE_")}
        environment |= {"STRAKE_HOME": folder, "PYTHONHASHSEED": "0", "PYTHONMALLOC": "pymalloc"}
        environment |= {"DJANGO_SETTINGS_MODULE": "strake.settings", "STRAKE_ALLOWED_PRIVATE_UPSTREAMS": "127.0.0.1:9"}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
        if metrics:
            environment["STRAKE_METRICS_BIND"] = f"unix:{folder}/metrics.sock"
        made = _connect(environment)
        program = [sys.executable, "-W", "ignore", "-m", "bench.one_request"]
        process = subprocess.Popen(
            [*_VALGRIND, f"--callgrind-out-file={out}", *program, kind, made["subdomain"], str(WARM_UP), str(requests)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(made["token"] + "\n")
        process.stdin.flush()
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(process.communicate()[1][-2000:])
        subprocess.run(["callgrind_control", "-i", "on", str(process.pid)], check=True, capture_output=True)
        _, errors = process.communicate("go\n")
        found = _TOTAL.search(out.read_text(encoding="ascii", errors="replace"))
        if process.returncode or found is None:
            raise RuntimeError(errors[-2000:])
    return int(found[1]) // requests


def _connect(environment: dict[str, str]) -> dict[str, str]:
    """Create a database with one endpoint. Returns its subdomain and token."""
    manage = [sys.executable, "-W", "ignore", str(ROOT / "manage.py")]
    subprocess.run([*manage, "migrate", "-v0"], env=environment, check=True)
    connect = ["connect", "--email", "bench@example.org", "--provider", "custom", "--key-stdin", "--json"]
    connect += ["--destination", DESTINATION]
    key = "sk-bench-0123456789abcdef0123456789abcdef"
    done = subprocess.run([*manage, *connect], env=environment, input=key, capture_output=True, text=True, check=True)
    made: dict[str, str] = json.loads(done.stdout)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("--kind", default="bench", choices=["bench", "openai"], help="whose request (%(default)s)")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--profile", type=Path, help="keep callgrind's file here")
    parser.add_argument("--without-metrics", action="store_true", help="as if STRAKE_METRICS_BIND were not set")
    options = parser.parse_args()
    counted = count(options.kind, options.requests, profile=options.profile, metrics=not options.without_metrics)
    sys.stdout.write(f"{counted:,} instructions per request\n")


if __name__ == "__main__":
    main()
