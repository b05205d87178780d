"""Environment variables: an invalid value is refused at startup, and no message repeats a secret."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from accounts import secret_files
from strake.env import Environment, email_config, redis_url

SECRET = "hunter2-do-not-print"


def env(**values: str) -> Environment:
    return Environment(values)


def test_text_is_stripped_and_empty_is_missing() -> None:
    assert env(A="  x ").text("A") == "x"
    assert env(A="  ").text("A", "default") == "default"
    assert env().text("A", "default") == "default"


@pytest.mark.parametrize("raw", ["0", "65536", "-1", "8000.0", "eight", "٨٠٠٠", "1e3", "0x10", "80 00", "9" * 5000])
def test_invalid_number_is_refused(raw: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="PORT must be a whole number from 1 to 65535"):
        env(PORT=raw).number("PORT", 8000, low=1, high=65535)


@pytest.mark.parametrize(("raw", "number"), [("", 8000), ("1", 1), ("65535", 65535), (" 80 ", 80)])
def test_number_in_range_is_returned(raw: str, number: int) -> None:
    assert env(PORT=raw).number("PORT", 8000, low=1, high=65535) == number


def test_words_are_split_at_commas() -> None:
    assert env(A=" a, ,b,c ,").words("A") == ["a", "b", "c"]
    assert env().words("A") == []


def test_secret_file_has_precedence(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(codecs.BOM_UTF8 + f"{SECRET}\r\n".encode())
    file.chmod(0o600)
    assert env(KEY_FILE=str(file), KEY="other").secret("KEY") == SECRET
    assert env(KEY="other").secret("KEY") == "other"
    assert env().secret("KEY") is None


def test_unreadable_secret_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"KEY_FILE: .*missing cannot be read: No such file"):
        env(KEY_FILE=str(tmp_path / "missing"), KEY="other").secret("KEY")
    (tmp_path / "binary").touch(mode=0o600)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00" + SECRET.encode())
    with pytest.raises(ImproperlyConfigured, match="not UTF-8 text") as caught:
        env(KEY_FILE=str(tmp_path / "binary")).secret("KEY")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o620])
def test_secret_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(mode)
    with pytest.raises(ImproperlyConfigured, match=f"KEY_FILE: Other users .* chmod 600 {file}") as caught:
        env(KEY_FILE=str(file)).secret("KEY")
    assert SECRET not in str(caught.value)


def test_secret_of_a_container_may_be_readable_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_files, "CONTAINER_SECRETS", tmp_path)
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(0o444)
    assert env(KEY_FILE=str(file)).secret("KEY") == SECRET
    assert "Other users" in secret_files.exposure(file, file.stat()), "not so the master keys"
    file.chmod(0o666)
    with pytest.raises(ImproperlyConfigured, match="Other users"):
        env(KEY_FILE=str(file)).secret("KEY")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:6379", "should look like rediss://"),
        ("redis-sentinel://x", "should look like rediss://"),
        ("http://127.0.0.1", "should look like rediss://"),
        (f"redis://:{SECRET}#ss@127.0.0.1:6379/0", "percent-encode"),
        (f"redis://:{SECRET}/ss@127.0.0.1:6379/0", "not a URL|percent-encode"),
        ("redis://127.0.0.1:port", "not a URL"),
        ("redis://127.0.0.1/zero", "a number or nothing"),
        ("redis:///0", "must name a host"),
    ],
)
def test_senseless_redis_url_is_refused(url: str, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"REDIS_URL.*({says})") as caught:
        redis_url(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "rediss://:p%23ss@redis.example.org",
        "redis://[::1]:6379/",
        "redis://r?ssl_cert_reqs=x",
    ],
)
def test_redis_url_is_accepted(url: str) -> None:
    assert redis_url(url) == url


@pytest.mark.parametrize(
    "origin",
    ["https://strake.example.org", "https://strake.example.org:8443", "http://localhost:8000", "http://[::1]:8000"],
)
def test_origin_is_returned_unchanged(origin: str) -> None:
    assert env(URL=origin).origin("URL", "").geturl() == origin
    assert env(URL=f"{origin}/").origin("URL", "").geturl() == origin


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("http://strake.example.org", "must use https"),
        ("http://10.0.0.1:8000", "must use https"),
        ("http://localhost.example.org", "must use https"),
        ("https://strake.example.org/app", "without a path"),
        ("https://strake.example.org?x=1", "without a path"),
        ("https://strake.example.org#x", "without a path"),
        ("strake.example.org", "must look like"),
        ("ftp://strake.example.org", "must look like"),
        ("https://", "must look like"),
        ("https://strake.example.org:port", "not a URL"),
        ("https://[::1", "not a URL"),
    ],
)
def test_unsafe_origin_is_refused(raw: str, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        env(URL=raw).origin("URL", "")


def test_refused_origin_is_not_repeated() -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        env(URL=f"https://admin:{SECRET}@strake.example.org").origin("URL", "")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "port", "starttls", "tls"),
    [
        ("smtp://mail.example.org", 25, False, False),
        ("smtp+tls://u:p@mail.example.org", 587, True, False),
        ("smtps://u:p@mail.example.org", 465, False, True),
        ("smtps://u:p@mail.example.org:4650", 4650, False, True),
    ],
)
def test_email_scheme_selects_port_and_tls(url: str, port: int, starttls: bool, tls: bool) -> None:
    config = email_config(url)
    assert (config["EMAIL_PORT"], config["EMAIL_USE_TLS"], config["EMAIL_USE_SSL"]) == (port, starttls, tls)
    assert config["EMAIL_HOST"] == "mail.example.org"


@pytest.mark.parametrize("url", [f"http://u:{SECRET}@mail.example.org", f"smtp:{SECRET}", f"smtp://:{SECRET}@"])
def test_invalid_email_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="EMAIL_URL") as caught:
        email_config(url)
    assert SECRET not in str(caught.value)


@given(st.text())
def test_no_text_raises_another_error(raw: str) -> None:
    readers: list[Callable[[], object]] = [
        lambda: env(A=raw).number("A", 1, low=1, high=9),
        lambda: env(A=raw).words("A"),
        lambda: env(A=raw).origin("A", "http://localhost"),
        lambda: email_config(raw),
    ]
    for read in readers:
        with contextlib.suppress(ImproperlyConfigured):
            read()
