"""Fuzz targets for what people, operators and configuration enter: addresses, destinations, tokens, URLs, keys.

Each takes bytes and raises `AssertionError`, or an exception that its parser does not declare, if an invariant breaks.
"""

from __future__ import annotations

import ipaddress
import json
import re
from urllib.parse import urljoin, urlsplit
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured

from accounts import addresses, tokens
from accounts.errors import InvalidEmail
from accounts.sign_in.policy import safe_next_path
from credentials import destinations, token_limits
from credentials.egress import is_public
from credentials.egress_allowlist import EgressAllowlist
from credentials.errors import InvalidDestination, InvalidKey, InvalidLimit, KeyringError
from credentials.vault import keyring, keyring_document, wrap_protocol
from credentials.vault.envelope import Binding, wrap_associated_data
from credentials.vault.provider_key import ProviderKey
from proxy.access.path_patterns import PathPatterns
from strake.database_url import database_config
from strake.env import Environment, email_config
from strake.processes import listen

MAX_WORD = 512


def text_of(data: bytes) -> str:
    """Text as a form or JSON delivers it: any characters, no lone surrogates."""
    return data.decode("utf-8", "replace")


def environment_text(data: bytes) -> str:
    """Text as `os.environ` delivers it: bytes that are not UTF-8 become lone surrogates."""
    return data.replace(b"\x00", b"").decode("utf-8", "surrogateescape")


def _assert_hidden(secret: str, error: Exception) -> None:
    """A message never repeats what was entered. Short texts may be words of the message."""
    assert len(secret.strip()) < 12 or secret.strip() not in str(error)


def email(data: bytes) -> None:
    try:
        canonical = addresses.normalise_email(text_of(data))
    except InvalidEmail:
        return
    assert addresses.normalise_email(canonical) == canonical
    assert canonical.isascii()
    assert "\n" not in canonical
    assert "\r" not in canonical


def client_address(data: bytes) -> None:
    peer, *lines = data.decode("latin-1").split("\n")
    for hops in range(3):
        found = addresses.client_address(peer, lines, hops)
        assert found is None or addresses.parse_address(str(found)) == found
    if lines:
        # What the client wrote before the entry of the trusted proxy does not count.
        trusted = [*lines, "192.0.2.7"]
        assert addresses.client_address(peer, trusted, 1) == ipaddress.ip_address("192.0.2.7")


def destination(data: bytes) -> None:
    url = text_of(data)
    try:
        parsed = destinations.parse(url)
    except InvalidDestination:
        return
    assert destinations.parse(parsed.url) == parsed
    assert re.fullmatch(r"[!-~]+", parsed.netloc), parsed.netloc
    assert not set(parsed.netloc) & set("/?#@\\")
    assert urlsplit(parsed.url).hostname == parsed.host
    assert 0 <= parsed.port < 65536
    # What is under the base path stays there for a client library that joins URLs.
    assert urljoin(f"{parsed.url}/", "x") == f"{parsed.url}/x"


def header_template(data: bytes) -> None:
    name, _, template = text_of(data).partition("\n")
    try:
        checked = destinations.check_header(name, template)
    except InvalidDestination:
        return
    assert destinations.check_header(*checked) == checked
    line = f"{checked[0]}: {checked[1]}"
    assert line.isascii()
    assert line.isprintable()


def allowlist(data: bytes) -> None:
    words = environment_text(data).split(",")
    try:
        allowed = EgressAllowlist(words)
    except ImproperlyConfigured:
        return
    for hole in allowed.holes:
        assert 0 < hole.ports[0] <= hole.ports[1] < 65536
        for network in hole.networks:
            assert hole.has_address(network[0], hole.ports[0])


def address(data: bytes) -> None:
    if len(data) not in {4, 16}:
        return
    parsed = ipaddress.ip_address(data)
    public = is_public(parsed)
    assert not (public and (parsed.is_private or parsed.is_loopback or parsed.is_link_local or parsed.is_multicast))
    if isinstance(parsed, ipaddress.IPv4Address):
        assert is_public(ipaddress.IPv6Address(b"\x00" * 10 + b"\xff\xff" + data)) == public
        assert is_public(ipaddress.IPv6Address(b"\x00\x64\xff\x9b" + b"\x00" * 8 + data)) == public


def next_path(data: bytes) -> None:
    path = safe_next_path(text_of(data))
    if not path:
        return
    joined = urlsplit(urljoin("https://strake.example/signin/", path))
    assert (joined.scheme, joined.netloc) == ("https", "strake.example"), path
    assert not re.search(r"[\\\x00-\x1f\x7f]|^//", path), path


def token(data: bytes) -> None:
    text = text_of(data)
    for prefix in ("strk_", "pat_", "link_"):
        if tokens.is_well_formed(text, prefix):
            assert re.fullmatch(rf"{prefix}[0-9A-Za-z]{{49}}", text)
            changed = text[:-1] + ("0" if text[-1] != "0" else "1")
            assert not tokens.is_well_formed(changed, prefix)
            assert len(tokens.digest(text)) == 32


def limits(data: bytes) -> None:
    paths, _, networks = text_of(data).partition("\n\n")
    try:
        cleaned = token_limits.clean(allowed_paths=paths.split("\n"), allowed_networks=networks.split("\n"))
    except InvalidLimit:
        return
    again = token_limits.clean(allowed_paths=cleaned.allowed_paths, allowed_networks=cleaned.allowed_networks)
    assert again == cleaned
    json.dumps(cleaned.allowed_paths).encode()
    PathPatterns(cleaned.allowed_paths)


def path_patterns(data: bytes) -> None:
    """The automaton agrees with a matcher that is slow and simple."""
    method_and_path, *lines = text_of(data[:MAX_WORD]).split("\n")
    method, _, path = method_and_path.partition(" ")
    try:
        entries = token_limits.clean(allowed_paths=lines).allowed_paths
    except InvalidLimit:
        return
    raw = path.encode()
    expected = any(
        entry.partition(" ")[0] in {"*", method} and _matches(entry.partition(" ")[2].encode(), raw)
        for entry in entries
    )
    assert PathPatterns(entries).match(method, raw) == expected, (entries, method, raw)


def _matches(pattern: bytes, path: bytes) -> bool:
    """Match by dynamic programming over the path, one part of the pattern after another."""
    reached = {0}
    for part in re.findall(rb"\*+|[^*]", pattern):
        following: set[int] = set()
        for start in reached:
            if part[:1] != b"*":
                if path[start : start + 1] == part:
                    following.add(start + 1)
                continue
            end = start
            following.add(end)
            while end < len(path) and (len(part) > 1 or path[end : end + 1] != b"/"):
                end += 1
                following.add(end)
        reached = following
    return len(path) in reached


def provider_key(data: bytes) -> None:
    pasted = text_of(data)
    try:
        key = ProviderKey(pasted)
    except InvalidKey as error:
        _assert_hidden(pasted, error)
        return
    assert re.fullmatch(r"[!-~]+", key.reveal())
    assert repr(key) == "ProviderKey('…')"


def envelope(data: bytes) -> None:
    """Two different bindings never have the same associated data, however their text is divided."""
    texts = [part.decode("latin-1") for part in data.split(b"\x00", 3)]
    texts += [""] * (4 - len(texts))
    one = UUID(int=1)
    joined = Binding(one, one, one, *texts).data_associated_data(1)
    whole = "".join(texts)
    for cut in range(min(len(whole) + 1, 32)):
        other = [whole[:cut], whole[cut:], "", ""]
        assert (other == texts) == (Binding(one, one, one, *other).data_associated_data(1) == joined)
    assert wrap_associated_data(1, one, texts[0]) != joined


def wrapped_key(data: bytes) -> None:
    try:
        wrapped = wrap_protocol.decode_wrapped(data)
    except ValueError:
        pass
    else:
        assert wrap_protocol.decode_wrapped(wrap_protocol.encode_wrapped(wrapped)) == wrapped
    try:
        keys = wrap_protocol.decode_keys(data)
    except ValueError:
        return
    assert wrap_protocol.decode_keys(wrap_protocol.encode_keys(keys)) == keys


def master_keys(data: bytes) -> None:
    document = environment_text(data)
    try:
        ring = keyring.parse(document)
    except KeyringError as error:
        # No message quotes what could be a key.
        for word in re.findall(r"[A-Za-z0-9+/]{40,}", document):
            _assert_hidden(word, error)
        return
    assert ring.primary_id in ring.ids
    for key_id in ring.ids:
        assert len(ring.key(key_id)) == keyring_document.KEY_BYTES
        assert len(ring.check_value(key_id)) == 16
    assert keyring.parse(keyring.new_document(ring)).key(ring.primary_id) == ring.key(ring.primary_id)


def database_url(data: bytes) -> None:
    url = environment_text(data)
    if re.search(r"ssl|%", url):
        return  # options that name files would read any file
    try:
        config = database_config(url)
    except ImproperlyConfigured as error:
        userinfo = url.rpartition("@")[0]
        password = userinfo.rpartition(":")[2]
        _assert_hidden(password, error)
        return
    assert config["HOST"]
    assert config["NAME"]
    assert len(config["HOST"].split(",")) == len(config["PORT"].split(","))
    assert all(0 < int(port) < 65536 for port in config["PORT"].split(","))
    assert 0 < int(config["OPTIONS"].get("connect_timeout", "2")) <= 600
    assert len(config["PASSWORD"]) < 4 or str(config["PASSWORD"]) not in repr(config["PASSWORD"])


def environment(data: bytes) -> None:
    value = environment_text(data)
    env = Environment({"NAME": value})
    for read in (
        lambda: env.text("NAME"),
        lambda: env.words("NAME"),
        lambda: env.number("NAME", 1, low=1, high=10),
        lambda: env.origin("NAME", ""),
        lambda: env.choice("NAME", "a", {"a", "b"}),
        lambda: email_config(env.text("NAME")),
    ):
        try:
            read()
        except ImproperlyConfigured as error:
            _assert_hidden(value, error)


def listen_addresses(data: bytes) -> None:
    try:
        found = listen.parse(environment_text(data), port=8000)
    except ImproperlyConfigured:
        return
    for one in found:
        if isinstance(one, listen.TCPAddress):
            assert 0 < one.port < 65536
            assert listen.parse(str(one), port=8000) == [one]
