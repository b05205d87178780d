"""The files of the image, Compose and Kubernetes: valid by their schemas, and true to the code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser

from strake.processes import proxy_server, web_server
from strake.processes.supervisor import WEB_STOP_SECONDS
from tests.container import compose
from tests.support import users
from tests.support.running import ROOT
from tests.support.services import free_port
from tests.test_docs import variables_read

COMPOSE_FILES = ("compose.yaml", "compose.full.yaml")
MANIFEST = ROOT / "contrib" / "kubernetes" / "strake.yaml"
DRAIN_SECONDS = 5  # the default of STRAKE_DRAIN_SECONDS
# What an installation keeps, and what only developers need.
NEVER_COPIED = (".strake", ".venv", ".git", "tests", "bench", "secrets", "requirements-dev.txt", ".env")
UNPRIVILEGED = "nobody"


def instructions() -> list[tuple[str, str]]:
    parser = DockerfileParser(path=str(ROOT / "Dockerfile"))
    return [(one["instruction"], one["value"]) for one in parser.structure if one["instruction"] != "COMMENT"]


def last(instruction: str) -> str:
    return [value for name, value in instructions() if name == instruction][-1]


# --- The image -----------------------------------------------------------------------------------------------------


def test_dockerfile_has_no_known_mistake() -> None:
    program = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=600, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_image_gets_what_exists_and_no_more() -> None:
    first, *patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    copied = {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")}
    assert not {name for name in copied if not (ROOT / name).exists()}
    assert not copied & set(NEVER_COPIED)
    sources = {word for name, value in instructions() if name == "COPY" for word in value.split()[:-1]}
    assert sources - {".", "--from=build", "/opt/strake"} <= copied


def test_image_installs_wheels_with_hashes_only() -> None:
    installs = [part for _, value in instructions() for part in value.split("&&") if "/pip " in part]
    assert len(installs) == 2
    assert all("${WHEELS}" in install for install in installs)
    (options,) = (value for name, value in instructions() if name == "ARG" and value.startswith("WHEELS="))
    assert "--require-hashes --no-deps --only-binary :all:" in options


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that an unprivileged user can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="strake-image-") as name:
        yield Path(name)


def test_commands_of_the_image_work(home: Path) -> None:
    port = free_port()
    environment = DockerfileParser(path=str(ROOT / "Dockerfile")).envs | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "STRAKE_BIND": f"*:{port}",
        "STRAKE_HOME": str(home / "data"),
        "STRAKE_RUNTIME": str(home / "run"),
        "HOME": str(home),
    }
    check = json.loads(last("HEALTHCHECK").partition("CMD ")[2].replace("8000", str(port)))
    serve = json.loads(last("ENTRYPOINT")) + json.loads(last("CMD"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(home, UNPRIVILEGED)
        prefix = users.prefix(UNPRIVILEGED, "nogroup", ["nogroup"])

    def is_healthy() -> bool:
        return subprocess.run(check, env=environment, stderr=subprocess.DEVNULL, timeout=60).returncode == 0

    with (home / "log").open("wb") as log:
        process = subprocess.Popen([*prefix, *serve], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 120
        while not is_healthy():
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < end, (home / "log").read_text()
            time.sleep(0.2)
        assert "/signin/link/" in (home / "log").read_text()
    finally:
        process.terminate()
        assert process.wait(120) == 0
    assert not is_healthy()


# --- Compose -------------------------------------------------------------------------------------------------------


@cache
def services(name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose.load(name, {"STRAKE_HOST": "strake.example.org"})["services"]
    return found


def own_services() -> list[Any]:
    """Every service that runs Strake's image."""
    return [
        pytest.param(service, id=f"{file}-{name}")
        for file in COMPOSE_FILES
        for name, service in services(file).items()
        if service["image"] == "strake"
    ]


def test_compose_files_match_the_specification() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    files = [str(ROOT / name) for name in COMPOSE_FILES]
    command = [str(program), "--builtin-schema", "vendor.compose-spec", *files]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_compose_services_have_no_more_rights_than_needed(file: str) -> None:
    for name, service in services(file).items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if service["image"] == "strake":
            assert "cap_add" not in service, name


@pytest.mark.parametrize("service", own_services())
def test_compose_variables_and_secrets_exist(service: dict[str, Any]) -> None:
    assert set(service["environment"]) <= variables_read()
    for variable, value in service["environment"].items():
        if value.startswith("/run/secrets/"):
            assert variable.endswith("_FILE")
            assert value.removeprefix("/run/secrets/") in service["secrets"]


def test_compose_web_half_has_no_way_to_master_keys() -> None:
    web, proxy = services("compose.full.yaml")["web"], services("compose.full.yaml")["proxy"]
    assert not [variable for variable in web["environment"] if "MASTER" in variable]
    assert web["volumes"] == ["run:/run/strake"]
    assert "vault:/vault:ro" in proxy["volumes"]
    assert not {"secret-key", "email-url", "database-url-owner", "database-url-web"} & set(proxy["secrets"])
    assert not {"database-url-proxy", "database-url-owner"} & set(web["secrets"])


def test_compose_waits_for_streams() -> None:
    def grace(file: str, name: str) -> int:
        return int(services(file)[name]["stop_grace_period"].removesuffix("s"))

    assert grace("compose.yaml", "strake") >= proxy_server.GRACEFUL_SECONDS + WEB_STOP_SECONDS
    assert grace("compose.full.yaml", "proxy") > DRAIN_SECONDS + proxy_server.GRACEFUL_SECONDS
    assert grace("compose.full.yaml", "web") > web_server.GRACEFUL_SECONDS


def test_one_container_is_reached_from_this_machine_only() -> None:
    assert services("compose.yaml")["strake"]["ports"] == ["127.0.0.1:8000:8000"]
    published = {name for name, service in services("compose.full.yaml").items() if "ports" in service}
    assert published == {"caddy"}


def test_compose_secrets_are_created_once(tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "compose.full.yaml").read_text())
    for url in ("smtp://mail.example.org", "smtp://other.example.org"):
        environment = {"PATH": os.environ["PATH"], "EMAIL_URL": url}
        script = ["sh", str(ROOT / "contrib" / "compose" / "secrets.sh")]
        subprocess.run(script, cwd=tmp_path, env=environment, check=True, timeout=60)
    files = compose.secret_files(document, tmp_path)
    assert {path.name for path in (tmp_path / "secrets").iterdir()} == set(files)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert files["email-url"].read_text() == "smtp://mail.example.org\n"
    assert len(files["secret-key"].read_text().strip()) >= 50
    urls = [files[f"database-url-{role}"].read_text() for role in ("owner", "proxy", "web")]
    passwords = {re.fullmatch(r"postgres://\w+:([0-9a-f]{64})@postgres/strake\n", url)[1] for url in urls}  # type: ignore[index]
    assert len(passwords) == 3


# --- Kubernetes ----------------------------------------------------------------------------------------------------


@cache
def resources() -> dict[str, dict[str, Any]]:
    """Every object of the manifest by its kind."""
    return {one["kind"]: one for one in yaml.safe_load_all(MANIFEST.read_text())}


def pods() -> dict[str, dict[str, Any]]:
    return {kind: resources()[kind]["spec"]["template"]["spec"] for kind in ("Deployment", "Job")}


def containers() -> dict[str, dict[str, Any]]:
    return {one["name"]: one for pod in pods().values() for one in pod.get("initContainers", []) + pod["containers"]}


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_manifest_matches_the_schemas(version: str) -> None:
    for resource in resources().values():
        kubernetes_validate.validate(resource, version, strict=True)


def test_pods_are_restricted() -> None:
    for pod in pods().values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        assert not pod["enableServiceLinks"]
    for name, container in containers().items():
        expected = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["securityContext"] == expected, name


def test_manifest_variables_exist_and_web_half_has_no_master_keys() -> None:
    common = set(resources()["ConfigMap"]["data"])
    for name, container in containers().items():
        assert common | {one["name"] for one in container["env"]} <= variables_read(), name
        mounted = {one["name"] for one in container["volumeMounts"]}
        assert ("keyring" in mounted) == (name != "web")


def test_pod_waits_for_streams_and_selects_itself() -> None:
    waits = DRAIN_SECONDS + proxy_server.GRACEFUL_SECONDS + web_server.GRACEFUL_SECONDS
    assert pods()["Deployment"]["terminationGracePeriodSeconds"] > waits
    web = containers()["web"]
    assert web["restartPolicy"] == "Always"  # a sidecar, which stops after the proxy half
    probes = containers()["proxy"]
    assert probes["livenessProbe"]["httpGet"]["path"] == probes["startupProbe"]["httpGet"]["path"] == "/livez"
    assert probes["readinessProbe"]["httpGet"]["path"] == "/readyz"
    labels = resources()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [resources()["Service"]["spec"]["selector"]]
    selectors += [
        resources()[kind]["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")
    ]
    assert all(selector == labels for selector in selectors)
    assert resources()["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
