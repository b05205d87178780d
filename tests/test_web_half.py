"""The web half loads no code that could open a key, and no keyring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

# Import contracts check the import statements. This also sees what Django finds by name.
LOAD = """
import json, os, sys
import django
django.setup()
from django.conf import settings
from django.core.checks import run_checks
from django.core.handlers.wsgi import WSGIHandler
from django.template.loader import get_template
from django.urls import get_resolver
WSGIHandler()
list(get_resolver().reverse_dict)
run_checks()
for folder, _, names in os.walk(settings.ROOT / "templates"):
    for name in names:
        get_template(os.path.relpath(os.path.join(folder, name), settings.ROOT / "templates"))
import strake.wsgi
from credentials.vault import wrapper
name = type(wrapper.current()).__name__
print(json.dumps({"modules": sorted(sys.modules), "wrapper": name}))
"""
OPENERS = {
    "credentials.checks",
    "credentials.vault.keyring",
    "credentials.vault.local_wrapper",
    "credentials.vault.master_keys",
    "credentials.vault.rotation",
    "credentials.vault.unwrapping",
    "credentials.vault.wrapping",
    "proxy.unsealing",
}


def loaded(process: str, home: Path) -> tuple[set[str], str]:
    """The modules that a process of this kind has loaded once it can serve pages, and the name of its wrapper."""
    environment = {**os.environ, "STRAKE_HOME": str(home), "STRAKE_PROCESS": process}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], env=environment, cwd=settings.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return set(found["modules"]), found["wrapper"]


def test_web_half_loads_no_keyring_and_no_opener() -> None:
    modules, wrapper = loaded("web", settings.STRAKE_HOME.path)
    assert wrapper == "SocketKeyWrapper"
    assert modules & OPENERS == set()


@pytest.mark.parametrize("process", ["", "proxy"])
def test_other_processes_wrap_and_check_their_own_keyring(process: str) -> None:
    modules, wrapper = loaded(process, settings.STRAKE_HOME.path)
    assert wrapper == "LocalKeyWrapper"
    assert modules >= {"credentials.checks", "credentials.vault.keyring", "credentials.vault.wrapping"}


def test_unknown_kind_of_process_is_refused(tmp_path: Path) -> None:
    environment = {**os.environ, "STRAKE_HOME": str(tmp_path), "STRAKE_PROCESS": "both"}
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        env=environment,
        cwd=settings.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert "STRAKE_PROCESS must be" in done.stderr
