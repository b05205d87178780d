"""What both halves add to gunicorn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SERVER = """
import os, signal, socket, sys
import django
django.setup()
from strake.processes.gunicorn_server import GunicornServer

def stop_at_once(arbiter, worker):
    print("forked", flush=True)
    if worker.age == 1:
        os.kill(os.getpid(), signal.SIGTERM)

listening = socket.create_server(("127.0.0.1", 0))
sys.argv = sys.argv[:1]
GunicornServer([listening], {"workers": 1, "post_fork": stop_at_once}, lambda: lambda *_: []).run()
"""


def test_worker_that_is_stopped_right_after_its_fork_stops(tmp_path: Path) -> None:
    """Another one replaces it. If the signal were lost, the first one would serve on."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "strake.settings", "STRAKE_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["forked\n"] * 2
        finally:
            process.terminate()
    assert process.returncode == 0
