"""Destinations and headers that people enter: what is accepted, and what is refused with a reason."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from pytest_django import Settings

from credentials import destinations, local_addresses, resolver
from credentials.errors import InvalidDestination
from strake.processes import listen
from tests.credentials.test_egress import FORBIDDEN, SPELLINGS

PUBLIC = "93.184.215.14"

REFUSED = [
    # Addresses, in every spelling.
    "https://8.8.8.8",
    "https://[2606:4700::1111]",
    "https://127.1",
    "https://127.0.1",
    "https://2130706433",
    "https://0x7f000001",
    "https://0x7f.1",
    "https://0X7F.0.0.1",
    "https://0177.0.0.1",
    "https://017700000001",
    "https://0",
    "https://0x",
    "https://1.2.3",
    "https://999.1",
    "https://127.0.0.1.",
    "https://127.1.",
    "https://[::1%25lo]",
    "https://[fe80::1%25eth0]",
    "https://[::ffff:127.0.0.1]",
    "https://[v1.x]",
    "https://[::1",
    "https://\uff11\uff12\uff17.\uff10.\uff10.\uff11",
    "https://①②⑦.⓪.⓪.①",
    "https://127。0。0。1",
    "https://%31%32%37.0.0.1",
    # Names of this machine, its network, and clouds' metadata services.
    "https://localhost",
    "https://LOCALHOST",
    "https://localhost.",
    "https://ⓛocalhost",
    "https://local\u00adhost",
    "https://api.localhost",
    "https://intranet",
    "https://metadata",
    "https://metadata.google.internal",
    "https://metadata.google.internal.",
    "https://METADATA.GOOGLE.INTERNAL",
    "https://instance-data.ec2.internal",
    "https://printer.local",
    "https://router.lan",
    "https://nas.home.arpa",
    "https://wiki.corp",
    "https://wiki.intranet",
    # User names that look like a host, and URLs that parsers disagree on.
    "https://api.openai.com@127.0.0.1",
    "https://user:pass@api.example.com",
    "https://@api.example.com",
    "https://api.example.com:443@127.0.0.1",
    "https://127.0.0.1#@api.example.com",
    "https://api.example.com\\@127.0.0.1",
    "https://api.example.com%40127.0.0.1",
    "https://api.example.com%2f127.0.0.1",
    "https://api.example.com\t.evil.example",
    "https://api.example.com\n127.0.0.1",
    "https://api.example.com\x00.evil.example",
    "https://api.example.com evil.example",
    "https://api..example.com",
    "https://.example.com",
    "https://-api.example.com;x",
    "https://api.example.com,127.0.0.1",
    "https://" + "a" * 64 + ".example.com",
    "https://" + "a.b" * 90 + ".example.com",
    "https://*.example.com",
    "https://api.example.com\u2044127.0.0.1",
    # Other schemes and ports, and URLs with more than a base path.
    "http://api.example.com",
    "ftp://api.example.com",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_x",
    "unix:///run/x.sock",
    "javascript:alert(1)",
    "//api.example.com",
    "https:api.example.com",
    "https:///api.example.com",
    "https://",
    "api.example.com",
    "https://api.example.com:80",
    "https://api.example.com:22",
    "https://api.example.com:8443",
    "https://api.example.com:0",
    "https://api.example.com:99999",
    "https://api.example.com:443x",
    "https://api.example.com:-443",
    "https://api.example.com/v1?x=1",
    "https://api.example.com/v1?",
    "https://api.example.com/#x",
    "https://api.example.com/../x",
    "https://api.example.com/./x",
    "https://api.example.com//x",
    "https://api.example.com/%2e%2e/x",
    "https://api.example.com/a\\b",
    "https://api.example.com/a;b",
    "https://api.example.com/a b",
    "https://localhost./",
    "https://user@api.example.com",
    "https://user:password@api.example.com",
    "https://api.example.com@evil.example",
    "https://api.example.com?x=1",
    "https://api.example.com#x",
    "https://api.example.com/?",
    "https://api.example.com/a/../b",
    "https://api.example.com/%2e%2e",
    "https://api.example.com/a//b",
    "https://evil.example\\.api.example.com",
    "https://db.internal",
    "https://1.2.3.4",
    "https://api.example.com:x",
    "https://-bad-.example.com",
    "https://api.example.com/ä",
    "https:///x",
    "http://api.example.com/v1",
]


@pytest.fixture(autouse=True)
def addresses(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> list[str]:
    """The addresses of every name. The allowlist is empty."""
    found = [PUBLIC]

    def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_UNSPEC, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = []
    return found


def test_list_of_refused_urls_is_large_enough() -> None:
    assert len(REFUSED) >= 60


@pytest.mark.parametrize("url", REFUSED, ids=ascii)
def test_url_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(InvalidDestination) as caught:
        destinations.check(url)
    assert len(str(caught.value)) > 20
    assert "password" not in str(caught.value).replace("user name and password", "")


@pytest.mark.parametrize("host", sorted({*SPELLINGS, *FORBIDDEN}))
def test_private_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidDestination):
        destinations.check(f"https://[{host}]/" if ":" in host else f"https://{host}/")


@pytest.mark.parametrize("address", FORBIDDEN)
def test_name_with_a_private_address_is_refused(address: str, addresses: list[str]) -> None:
    addresses.append(address)
    with pytest.raises(InvalidDestination, match="private address"):
        destinations.check("https://127-0-0-1.example.com")


@pytest.mark.parametrize(
    ("entered", "url"),
    [
        ("https://api.example.com", "https://api.example.com"),
        (" https://API.Example.com/ ", "https://api.example.com"),
        ("\thttps://api.example.com\n", "https://api.example.com"),
        ("HTTPS://api.example.com.", "https://api.example.com"),
        ("https://api.example.com:443/v1/", "https://api.example.com/v1"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://api。example。com", "https://api.example.com"),
        ("https://my-model.eu-1.example.com/openai/v1.2", "https://my-model.eu-1.example.com/openai/v1.2"),
    ],
)
def test_url_is_stored_in_its_canonical_form(entered: str, url: str) -> None:
    assert destinations.check(entered).url == url


def test_name_that_cannot_be_resolved_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is checked again when connecting."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert destinations.check("https://api.example.com").host == "api.example.com"


# --- The allowlist ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("ollama.lan:11434", "http://ollama.lan:11434"),
        ("OLLAMA.lan:11434", "http://ollama.lan:11434/v1"),
        ("10.1.2.3:8080", "http://10.1.2.3:8080"),
        ("10.1.0.0/16", "http://10.1.2.3:8080"),
        ("10.1.0.0/16", "https://10.1.2.3"),
        ("fd00::/8", "http://[fd00::1]:8080"),
        ("10.1.0.0/16", "http://models.lan:8080"),  # a name with the addresses below
        ("10.1.0.0/16", "https://models.lan"),
    ],
)
def test_listed_destination_is_accepted(entry: str, url: str, addresses: list[str], settings: Settings) -> None:
    addresses[:] = ["10.1.2.3", "10.1.255.255"]
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [entry]
    assert destinations.check(url).url == url


@pytest.mark.parametrize(
    ("entry", "url", "resolved"),
    [
        ("ollama.lan:11434", "http://ollama.lan:11435", ["10.1.2.3"]),
        ("ollama.lan:11434", "http://models.lan:11434", ["10.1.2.3"]),
        ("10.1.0.0/16", "http://10.2.0.1:8080", ["10.1.2.3"]),
        ("10.1.0.0/16", "http://models.lan:8080", ["10.1.2.3", "10.2.0.1"]),
        ("10.1.0.0/16", "http://models.lan:8080", ["10.1.2.3", PUBLIC]),
        ("10.1.0.0/16", "http://models.lan:8080", ["10.2.0.1"]),
        ("10.1.0.0/16", "http://models.lan:8080", []),
    ],
)
def test_unlisted_destination_is_refused(
    entry: str, url: str, resolved: list[str], addresses: list[str], settings: Settings
) -> None:
    addresses[:] = resolved
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [entry]
    with pytest.raises(InvalidDestination):
        destinations.check(url)


# --- Strake itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]:8000"])
@pytest.mark.parametrize(
    "url",
    ["http://localhost:8000", "http://127.0.0.1:8000/p/abcdefghijkl", "http://[::1]:8000", "http://localhost:8000/"],
)
def test_strake_is_refused_as_a_destination(base: str, url: str, settings: Settings) -> None:
    """Even if it is in the allowlist: an endpoint whose key is its token would call itself endlessly."""
    settings.STRAKE_BASE = urlsplit(base)
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.0/8", "::1/128", "localhost:8000"]
    with pytest.raises(InvalidDestination, match="circle"):
        destinations.check(url)


def test_other_port_of_this_machine_is_accepted(settings: Settings) -> None:
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.0/8"]
    assert destinations.check("http://127.0.0.1:11434").port == 11434


def test_endpoint_hosts_are_refused_as_destinations(settings: Settings) -> None:
    settings.STRAKE_PROXY_DOMAIN = "proxy.example.org"
    for host in ("proxy.example.org", "abcdefghijkl.proxy.example.org"):
        with pytest.raises(InvalidDestination, match="circle"):
            destinations.check(f"https://{host}")
    assert destinations.check("https://notproxy.example.org").host == "notproxy.example.org"


def test_deployed_strake_refuses_its_host_and_its_socket(settings: Settings) -> None:
    settings.STRAKE_LOOPBACK = False
    settings.STRAKE_BASE = urlsplit("https://strake.example.org")
    settings.STRAKE_BIND = listen.parse("127.0.0.1:8123", port=8000)
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["127.0.0.0/8"]
    for url in ("https://strake.example.org", "http://127.0.0.1:8123", "http://127.0.0.9:8123"):
        with pytest.raises(InvalidDestination, match="circle"):
            destinations.check(url)
    assert destinations.check("http://127.0.0.1:8000").url == "http://127.0.0.1:8000"


# --- Owners, and what to do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("http://localhost:11434", "localhost:11434"),
        ("http://ollama.lan", "ollama.lan:80"),
        ("https://10.1.2.3", "10.1.2.3:443"),
        ("https://[fd00::1]:8443", "[fd00::1]:8443"),
        ("https://api.example.com:8443", "api.example.com:8443"),
        ("https://wiki", "wiki:443"),
    ],
)
def test_refusal_names_the_setting_and_its_value(url: str, entry: str, settings: Settings) -> None:
    with pytest.raises(InvalidDestination) as caught:
        destinations.check(url)
    assert f"add {entry} to STRAKE_ALLOWED_PRIVATE_UPSTREAMS" in str(caught.value)
    assert str(caught.value).endswith(f"STRAKE_ALLOWED_PRIVATE_UPSTREAMS={entry}")
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [entry]  # and that helps
    destinations.check(url)


def test_private_address_names_the_setting(addresses: list[str], settings: Settings) -> None:
    addresses[:] = ["10.1.2.3"]
    with pytest.raises(InvalidDestination, match=r"private address.*add models.example.com:443 to STRAKE_"):
        destinations.check("https://models.example.com")


@pytest.mark.parametrize("entry", ["ollama.lan:11434", "10.1.0.0/16:11434"])
def test_hole_is_for_its_owners(entry: str, addresses: list[str], settings: Settings) -> None:
    addresses[:] = ["10.1.2.3"]
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [f"{entry}=alice@example.org", f"{entry}=@models.example"]
    for email in ("alice@example.org", "anybody@models.example"):
        destinations.check("http://ollama.lan:11434", owner_email=email)
    for email in ("mallory@example.org", "alice@example.org.evil.example", ""):
        with pytest.raises(InvalidDestination, match=r"for other people.*ollama.lan:11434= and your email"):
            destinations.check("http://ollama.lan:11434", owner_email=email)


def test_local_model_server_works_under_each_name(addresses: list[str], settings: Settings) -> None:
    addresses[:] = ["::1", "127.0.0.1"]
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["localhost:11434"]
    for host in ("localhost", "127.0.0.1", "[::1]"):
        destinations.check(f"http://{host}:11434")
    with pytest.raises(InvalidDestination):
        destinations.check("http://localhost:11435")


@pytest.mark.parametrize(("entry", "missing"), [("127.0.0.1/32", "::1"), ("[::1]:11434", "127.0.0.1")])
def test_refusal_names_the_address_that_is_not_open(
    entry: str, missing: str, addresses: list[str], settings: Settings
) -> None:
    addresses[:] = ["::1", "127.0.0.1"]
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = [entry]
    expected = f"localhost also leads to {missing}, which STRAKE_ALLOWED_PRIVATE_UPSTREAMS does not open"
    with pytest.raises(InvalidDestination, match=f"{expected}.*add localhost:11434 to"):
        destinations.check("http://localhost:11434")


def test_own_public_address_needs_an_entry(
    addresses: list[str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_addresses, "is_own", lambda address: str(address) == PUBLIC)
    with pytest.raises(InvalidDestination, match="machine that Strake runs on"):
        destinations.check("https://www.example.com")
    settings.STRAKE_ALLOWED_PRIVATE_UPSTREAMS = ["www.example.com:443"]
    destinations.check("https://www.example.com")


def test_silent_names_of_one_person_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise resolver.TooManyLookUps

    monkeypatch.setattr(resolver.Resolver, "resolve", busy)
    with pytest.raises(InvalidDestination, match="still being looked up"):
        destinations.check("https://api.example.com")


# --- Headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("Authorization", "Bearer {{secret}}"),
        ("x-api-key", "{{secret}}"),
        ("X" * 64, "{{secret}}"),
        ("Authorization", "{{secret}}" + "x" * 246),
        (" X-Api-Key ", " Key {{secret}} "),
        ("\tX-Api-Key", "Key {{secret}}\n"),
    ],
)
def test_header_is_accepted_without_padding(name: str, template: str) -> None:
    assert destinations.check_header(name, template) == (name.strip(), template.strip())


@pytest.mark.parametrize("name", ["", " ", "X Key", "X:Key", "X-Kéy", "X\nKey", "X" * 65, "Host", "COOKIE", "via"])
def test_header_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidDestination) as caught:
        destinations.check_header(name, "{{secret}}")
    assert caught.value.field == "header_name"


@pytest.mark.parametrize(
    "template",
    ["", "Bearer", "{{secret}}{{secret}}", "{secret}", "é {{secret}}", "a\n{{secret}}", "{{secret}}" + "x" * 247],
)
def test_header_template_is_refused(template: str) -> None:
    with pytest.raises(InvalidDestination) as caught:
        destinations.check_header("X-Key", template)
    assert caught.value.field == "header_template"
