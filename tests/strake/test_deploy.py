"""The service units and example configuration in deploy/, checked by systemd's own tools and against the code."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from credentials.vault import keyring
from strake.processes import proxy_server, web_server
from tests.support.running import ROOT
from tests.support.services import free_port
from tests.test_docs import variables_read

DEPLOY = ROOT / "deploy"
HALVES = ("proxy", "web")
SECRETS_OF = {
    "proxy": {"STRAKE_MASTER_KEYS", "STRAKE_MASTER_KEYS_FILE"},
    "web": {"STRAKE_SECRET_KEY", "STRAKE_SECRET_KEY_FILE", "EMAIL_URL", "EMAIL_URL_FILE"},
}
DRAIN_SECONDS = 5  # the default of STRAKE_DRAIN_SECONDS


def unit_file(half: str) -> Path:
    return DEPLOY / "systemd" / f"strake-{half}.service"


def values(half: str, key: str) -> list[str]:
    """The values of one key in the unit of a half, in order."""
    return re.findall(rf"^{key}=(.*)$", unit_file(half).read_text(), flags=re.MULTILINE)


def environment(name: str) -> dict[str, str]:
    """The variables of an example file, as systemd reads them."""
    lines = (DEPLOY / "etc" / f"{name}.env").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {variable: value.strip("'") for variable, value in pairs}


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


# --- The units -----------------------------------------------------------------------------------------------------


@pytest.fixture
def installed_units(tmp_path: Path) -> list[str]:
    """Copies of the units that start this checkout, since the command must exist, with the drop-in."""
    shutil.copytree(DEPLOY / "systemd" / "strake-web.service.d", tmp_path / "strake-web.service.d")
    for half in HALVES:
        text = unit_file(half).read_text().replace("/opt/strake/.venv/bin/python", sys.executable)
        (tmp_path / unit_file(half).name).write_text(text.replace("/opt/strake", str(ROOT)))
    return [str(tmp_path / unit_file(half).name) for half in HALVES]


@pytest.mark.systemd
def test_systemd_accepts_the_units(installed_units: list[str]) -> None:
    done = analyze("verify", "--man=no", *installed_units)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.systemd
@pytest.mark.parametrize("half", HALVES)
def test_unit_exposes_little_of_the_machine(half: str) -> None:
    """From 0 to 10, by systemd's own list. A unit without hardening has 9.6."""
    done = analyze("security", "--offline=true", "--threshold=18", "--no-pager", str(unit_file(half)))
    assert done.returncode == 0, done.stdout
    assert done.stderr == "", "an unknown word is ignored with a warning"


@pytest.mark.parametrize("half", HALVES)
def test_unit_leaves_nothing_to_a_stolen_disk_or_a_new_user(half: str) -> None:
    assert values(half, "MemorySwapMax") == ["0"]
    assert values(half, "LimitCORE") == ["0"]
    assert values(half, "RestrictSUIDSGID") == ["true"]


def test_secret_key_comes_as_a_credential() -> None:
    assert values("web", "LoadCredential") == ["secret-key:/etc/strake/web/secret-key"]
    assert values("web", "Environment") == ["STRAKE_SECRET_KEY_FILE=%d/secret-key"]


def test_drop_in_denies_private_networks_to_the_web_half() -> None:
    text = (DEPLOY / "systemd" / "strake-web.service.d" / "network.conf").read_text()
    denied, allowed = (re.findall(rf"^{key}=(.*)$", text, re.MULTILINE) for key in ("IPAddressDeny", "IPAddressAllow"))
    networks = [ip_network(word) for word in denied[0].split() if word != "multicast"]
    for address in ("10.1.2.3", "172.20.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "fd00::1", "fe80::1"):
        assert any(ip_address(address) in network for network in networks), address
    assert not any(ip_address("1.1.1.1") in network for network in networks)
    assert allowed == ["localhost"]


def test_halves_run_as_two_users_that_share_the_sockets_group() -> None:
    users = [values(half, "User") for half in HALVES]
    assert users == [["strake-proxy"], ["strake-web"]]
    assert [values(half, "SupplementaryGroups") for half in HALVES] == [["strake-run"], ["strake-run"]]
    assert environment("proxy")["STRAKE_WEB_USER"] == "strake-web"


@pytest.mark.parametrize("half", HALVES)
def test_unit_starts_its_half_with_its_own_file(half: str) -> None:
    assert values(half, "ExecStart") == [f"/opt/strake/.venv/bin/python manage.py serve --only {half}"]
    assert values(half, "EnvironmentFile") == [f"/etc/strake/{half}.env"]


def test_web_half_ends_with_the_proxy_half_and_after_it() -> None:
    assert values("web", "BindsTo") == ["strake-proxy.service"]
    assert values("web", "Before") == ["strake-proxy.service"]  # systemd stops in the opposite order
    assert "strake-web.service" in values("proxy", "Wants")[0].split()


def test_units_wait_for_what_is_in_progress() -> None:
    """Otherwise systemd kills streams and pages that Strake still waits for."""
    (proxy,), (web,) = (values(half, "TimeoutStopSec") for half in HALVES)
    assert int(proxy) >= DRAIN_SECONDS + proxy_server.GRACEFUL_SECONDS + 10
    assert int(web) >= web_server.GRACEFUL_SECONDS + 10


@pytest.mark.parametrize("half", HALVES)
def test_wrong_configuration_is_not_restarted(half: str) -> None:
    assert values(half, "RestartPreventExitStatus") == [str(os.EX_CONFIG)]


# --- Users and folders ---------------------------------------------------------------------------------------------


@pytest.mark.systemd
def test_systemd_creates_the_users(tmp_path: Path) -> None:
    done = subprocess.run(
        ["systemd-sysusers", "--dry-run", f"--root={tmp_path}", str(DEPLOY / "sysusers.d" / "strake.conf")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    created = set(re.findall(r"Creating (?:user|group) '([\w-]+)'", done.stdout + done.stderr))
    assert created == {"strake-proxy", "strake-web", "strake-run"}
    members = re.findall(r"^m (\S+) +strake-run$", (DEPLOY / "sysusers.d" / "strake.conf").read_text(), re.MULTILINE)
    assert members == ["strake-proxy", "strake-web"]


def test_each_half_writes_its_own_socket_folder_only() -> None:
    lines = (DEPLOY / "tmpfiles.d" / "strake.conf").read_text().splitlines()
    folders = {fields[1]: fields[2:5] for line in lines if (fields := line.split()) and fields[0] == "d"}
    assert folders == {
        "/run/strake": ["2750", "root", "strake-run"],
        "/run/strake/proxy": ["2750", "strake-proxy", "strake-run"],
        "/run/strake/web": ["2750", "strake-web", "strake-run"],
    }
    for half in HALVES:
        assert values(half, "ProtectSystem") == ["strict"]
        assert values(half, "ReadWritePaths") == [f"/run/strake/{half}"]


# --- The environment files -----------------------------------------------------------------------------------------

FILES = (*HALVES, "operator")


@pytest.mark.parametrize("name", FILES)
def test_example_holds_documented_variables_only(name: str) -> None:
    assert environment(name).keys() <= variables_read()  # which docs/configuration.md lists


def test_neither_half_gets_the_secrets_of_the_other() -> None:
    for half, other in (HALVES, HALVES[::-1]):
        assert not SECRETS_OF[other] & environment(half).keys()
        assert SECRETS_OF[half] & environment(half).keys()


def test_each_file_names_its_own_database_role() -> None:
    urls = {name: urlsplit(environment(name)["DATABASE_URL"]) for name in FILES}
    assert {name: url.username for name, url in urls.items()} == {
        "proxy": "strake_proxy",
        "web": "strake_web",
        "operator": "strake",
    }
    assert len({url.password for url in urls.values()}) == 3
    assert len({(url.hostname, url.port, url.path) for url in urls.values()}) == 1


@pytest.mark.parametrize(("name", "process"), [("proxy", "proxy"), ("web", "web"), ("operator", "")])
def test_example_is_a_complete_configuration(name: str, process: str, tmp_path: Path) -> None:
    files = {"STRAKE_MASTER_KEYS_FILE": keyring.new_document(), "STRAKE_SECRET_KEY_FILE": secrets.token_urlsafe(50)}
    variables = environment(name)
    if name in HALVES:  # as the unit adds them
        variables |= dict(value.split("=", 1) for value in values(name, "Environment"))
    for variable in files.keys() & variables.keys():
        (tmp_path / variable).touch(mode=0o600)
        (tmp_path / variable).write_text(files[variable])
        variables[variable] = str(tmp_path / variable)
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "STRAKE_PROCESS": process, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_documents_say_where_each_file_goes() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    for path in sorted(path for path in DEPLOY.rglob("*") if path.is_file()):
        assert f"deploy/{path.parent.relative_to(DEPLOY)}/" in operations, path
        assert path.name in operations, path


# --- What the hardening forbids ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The system calls of both halves while they start, serve a page and a refusal, and stop, one a line."""
    folder, port = tmp_path_factory.mktemp("traced"), free_port()
    process = subprocess.Popen(
        ["strace", "-ff", "-qq", "-o", str(folder / "trace"), sys.executable, "manage.py", "serve", "--no-link"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "STRAKE_HOME": str(folder / "home"), "PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        with httpx.Client(base_url=f"http://localhost:{port}", timeout=60) as client:
            assert status_once_served(client, "/healthz", process) == 200
            assert client.get("/p/000000000000/v1/models").status_code == 401
    finally:
        os.killpg(process.pid, 15)
        process.communicate(timeout=60)
    return [line for path in folder.glob("trace*") for line in path.read_text(errors="replace").splitlines()]


def status_once_served(client: httpx.Client, path: str, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < end:
        try:
            response = client.get(path)
        except httpx.TransportError:
            time.sleep(0.2)
            continue
        if response.status_code != 503:
            return response.status_code
        time.sleep(0.2)
    raise AssertionError("Strake does not serve under strace")


def calls_in(group: str) -> set[str]:
    """The system calls of one of systemd's groups, such as @system-service."""
    members = [line.strip() for line in analyze("syscall-filter", group).stdout.splitlines()[1:]]
    names = [line for line in members if line and not line.startswith("#")]
    assert names, group
    return {call for name in names for call in (calls_in(name) if name.startswith("@") else {name})}


def allowed_calls(half: str) -> set[str]:
    allowed: set[str] = set()
    for value in values(half, "SystemCallFilter"):
        named = {call for word in value.lstrip("~").split() for call in (calls_in(word) if word[0] == "@" else {word})}
        allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


@pytest.mark.systemd
@pytest.mark.strace
@pytest.mark.slow
@pytest.mark.parametrize("half", HALVES)
def test_unit_allows_every_system_call_of_strake(half: str, traced: list[str]) -> None:
    used = {found[1] for line in traced if (found := re.match(r"(\w+)\(", line))}
    assert {"execve", "accept4", "sendto"} <= used
    # As root, SQLite gives its files to the owner of the database. Strake's own users are not root.
    used -= {"fchown"}
    if half == "proxy":  # the trace is of both halves, and only the other confines itself
        used -= {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}
    assert used - allowed_calls(half) == set()


@pytest.mark.strace
@pytest.mark.slow
def test_strake_needs_no_writable_code(traced: list[str]) -> None:
    """What `MemoryDenyWriteExecute=` forbids: memory that is or becomes executable after it was writable."""
    assert [line for line in traced if "PROT_EXEC" in line], "the libraries"
    forbidden = re.compile(r"mmap2?\(.*PROT_WRITE\|PROT_EXEC|(?:pkey_)?mprotect\(.*PROT_EXEC|shmat\(.*SHM_EXEC")
    assert not [line for line in traced if forbidden.match(line)]


@pytest.mark.strace
@pytest.mark.slow
def test_strake_reads_only_process_folders_of_proc(traced: list[str]) -> None:
    """What `ProcSubset=pid` leaves. Libraries cope with a missing file, which is all they find there then."""
    opened = {found[1] for line in traced if (found := re.search(r'openat\(.*"/proc/([^"/]+).*= \d+$', line))}
    assert {name for name in opened if not name.isdigit()} <= {"self"}
