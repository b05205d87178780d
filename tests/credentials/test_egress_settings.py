"""STRAKE_EGRESS_PROXY, STRAKE_EGRESS_NO_PROXY and STRAKE_CA_FILE: what is understood, and what a refusal says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from credentials import egress_tls
from credentials.egress_proxy import EgressProxy, parse
from tests.support.certificates import Authority
from tests.support.running import ROOT

SECRET = "hunter2-do-not-print"


def parsed(url: str, *exceptions: str) -> EgressProxy:
    return parse(url, resolves=False, exceptions=exceptions)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://proxy.example.org:3128", "proxy.example.org", 3128),
        ("http://Proxy:8080/", "proxy", 8080),
        ("http://10.0.0.1:3128", "10.0.0.1", 3128),
        ("http://[fd00::1]:3128", "fd00::1", 3128),
    ],
)
def test_proxy_is_a_host_and_a_port(url: str, host: str, port: int) -> None:
    proxy = parsed(url)
    assert (proxy.host, proxy.port, proxy.authorization) == (host, port, b"")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"https://user:{SECRET}@proxy.example.org:3128", "must start with http://"),
        (f"http://user:{SECRET}@proxy.example.org", "must look like"),
        (f"http://user:{SECRET}#@proxy.example.org:3128", "# is %23"),
        (f"http://user:{SECRET}/@proxy.example.org:3128", "/ is %2F"),
        (f"http://user:{SECRET}@proxy.example.org:3128/path", "must look like"),
        (f"http://user:{SECRET}@proxy.example.org:31280000", "must look like"),
        (f"http://user:{SECRET}@:3128", "must look like"),
        (f"http://user:{SECRET}@a b:3128", "must look like"),
        (f"http://user:{SECRET}%0A@proxy.example.org:3128", "cannot be sent"),
        (f"user:{SECRET}@proxy.example.org:3128", "must look like"),
        ("proxy.example.org:3128", "must look like"),
        ("socks5://proxy.example.org:1080", "must look like"),
    ],
)
def test_refused_proxy_says_what_to_write(url: str, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="STRAKE_EGRESS_PROXY") as caught:
        parsed(url)
    assert says in str(caught.value)
    assert SECRET not in str(caught.value)


def test_password_is_in_no_repr() -> None:
    proxy = parsed(f"http://user:{SECRET}@proxy.example.org:3128")
    assert proxy.authorization
    assert SECRET not in repr(proxy)
    assert proxy.authorization.decode() not in repr(proxy)


@pytest.mark.parametrize("entry", ["*", "*.example.org", "10.0.0.0/33", "host:80", "http://host", "a b", "@", "."])
def test_refused_exception_says_what_to_write(entry: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="STRAKE_EGRESS_NO_PROXY") as caught:
        parsed("http://proxy:3128", "fine.example.org", entry)
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("one.example.org", True),
        ("sub.one.example.org", False),
        ("a.corp.example", True),
        ("a.b.corp.example", True),
        ("corp.example", False),
        ("evilcorp.example", False),
    ],
)
def test_name_of_an_exception_is_a_host_or_a_suffix(host: str, direct: bool) -> None:
    proxy = parsed("http://proxy:3128", "One.example.org", ".corp.example")
    info: Any = (0, 0, 0, "", ("93.184.216.34", 443))
    assert bool(proxy.reached_directly(host, [info])) is direct


def test_authorities_of_a_file_are_added(tmp_path: Path, settings: Any) -> None:
    before = len(egress_tls.client_context().get_ca_certs())
    bundle = tmp_path / "bundle.pem"
    first, second = (Authority(tmp_path / name).path.read_text() for name in ("first", "second"))
    bundle.write_text(f"# Großes Büro\n{first}\n# and\n{second}", encoding="utf-8")
    settings.STRAKE_CA_CERTIFICATES = egress_tls.read_certificates(str(bundle))
    assert len(egress_tls.client_context().get_ca_certs()) == before + 2


@pytest.mark.parametrize(
    "content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\xff\xfe"]
)
def test_file_without_certificates_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    with pytest.raises(ImproperlyConfigured, match=r"STRAKE_CA_FILE names .* PEM file"):
        egress_tls.read_certificates(str(path))
    with pytest.raises(ImproperlyConfigured, match="cannot be read: No such file"):
        egress_tls.read_certificates(str(tmp_path / "missing.pem"))


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"STRAKE_EGRESS_PROXY": f"https://u:{SECRET}@p:1"}, "STRAKE_EGRESS_PROXY must start with http://"),
        ({"STRAKE_EGRESS_PROXY_RESOLVES": "1"}, "STRAKE_EGRESS_PROXY_RESOLVES needs STRAKE_EGRESS_PROXY"),
        ({"STRAKE_EGRESS_PROXY_RESOLVES": "yes"}, "STRAKE_EGRESS_PROXY_RESOLVES must be a whole number from 0 to 1"),
        ({"STRAKE_EGRESS_NO_PROXY": "*"}, "STRAKE_EGRESS_NO_PROXY: '*' is neither"),
        ({"STRAKE_CA_FILE": "/nowhere.pem"}, "STRAKE_CA_FILE names /nowhere.pem"),
    ],
)
def test_invalid_variable_stops_every_command(tmp_path: Path, variables: dict[str, str], says: str) -> None:
    environment = {"PATH": os.environ["PATH"], "STRAKE_HOME": str(tmp_path / "home"), **variables}
    command = [sys.executable, "manage.py", "check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 78
    assert says in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
