"""Reading the environment: unknown words and missing secrets stop the process, and no message repeats a secret."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from strake.env import Environment, database_config, email_config

SECRET = "hunter2-do-not-print"


def env(**values: str) -> Environment:
    return Environment(values)


def test_text_is_stripped_and_empty_means_absent():
    assert env(A="  x ").text("A") == "x"
    assert env(A="  ").text("A", "default") == "default"
    assert env().text("A", "default") == "default"


@pytest.mark.parametrize("raw", ["0", "65536", "-1", "8000.0", "eight", "٨٠٠٠", "1e3", "0x10", "80 00", "9" * 5000])
def test_a_number_out_of_range_or_not_a_number_is_refused(raw: str):
    with pytest.raises(ImproperlyConfigured, match="PORT must be a whole number from 1 to 65535"):
        env(PORT=raw).number("PORT", 8000, low=1, high=65535)


@pytest.mark.parametrize(("raw", "number"), [("", 8000), ("1", 1), ("65535", 65535), (" 80 ", 80)])
def test_a_number_in_range_is_read(raw: str, number: int):
    assert env(PORT=raw).number("PORT", 8000, low=1, high=65535) == number


def test_words_are_split_at_commas_and_empty_ones_dropped():
    assert env(A=" a, ,b,c ,").words("A") == ["a", "b", "c"]
    assert env().words("A") == []


def test_a_secret_comes_from_its_file_first(tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    assert env(KEY_FILE=str(file), KEY="other").secret("KEY") == SECRET
    assert env(KEY="other").secret("KEY") == "other"
    assert env().secret("KEY") is None


def test_an_unreadable_secret_file_is_an_error_and_never_falls_back(tmp_path: Path):
    with pytest.raises(ImproperlyConfigured, match=r"KEY_FILE names .*missing.* cannot be read: No such file"):
        env(KEY_FILE=str(tmp_path / "missing"), KEY="other").secret("KEY")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00" + SECRET.encode())
    with pytest.raises(ImproperlyConfigured, match="not UTF-8 text") as caught:
        env(KEY_FILE=str(tmp_path / "binary")).secret("KEY")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "origin",
    ["https://strake.example.org", "https://strake.example.org:8443", "http://localhost:8000", "http://[::1]:8000"],
)
def test_an_origin_is_taken_as_it_is(origin: str):
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
def test_a_base_url_that_is_no_safe_origin_is_refused(raw: str, message: str):
    with pytest.raises(ImproperlyConfigured, match=message):
        env(URL=raw).origin("URL", "")


def test_a_base_url_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(ImproperlyConfigured) as caught:
        env(URL=f"https://admin:{SECRET}@strake.example.org").origin("URL", "")
    assert SECRET not in str(caught.value)


def test_a_database_url_is_taken_apart():
    config = database_config("postgres://us%40er:p%2Fw@db.example.org:5433/strake?sslmode=verify-full")
    assert config == {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "strake",
        "USER": "us@er",
        "PASSWORD": "p/w",
        "HOST": "db.example.org",
        "PORT": "5433",
        "OPTIONS": {"sslmode": "verify-full"},
    }


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{SECRET}@db/strake",
        f"postgres://user:{SECRET}@db:notaport/strake",
        f"postgres://user:{SECRET}@db:5432/",
        f"user:{SECRET}@db",
        f"postgres://[{SECRET}",
    ],
)
def test_a_bad_database_url_is_refused_without_repeating_it(url: str):
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL") as caught:
        database_config(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "port", "starttls", "tls"),
    [
        ("smtp://mail.example.org", 25, False, False),
        ("smtp+tls://u:p@mail.example.org", 587, True, False),
        ("smtps://u:p@mail.example.org", 465, False, True),
        ("smtps://u:p@mail.example.org:4650", 4650, False, True),
    ],
)
def test_the_scheme_of_the_email_url_decides_port_and_tls(url: str, port: int, starttls: bool, tls: bool):
    config = email_config(url)
    assert (config["EMAIL_PORT"], config["EMAIL_USE_TLS"], config["EMAIL_USE_SSL"]) == (port, starttls, tls)
    assert config["EMAIL_HOST"] == "mail.example.org"


@pytest.mark.parametrize("url", [f"http://u:{SECRET}@mail.example.org", f"smtp:{SECRET}", f"smtp://:{SECRET}@"])
def test_a_bad_email_url_is_refused_without_repeating_it(url: str):
    with pytest.raises(ImproperlyConfigured, match="EMAIL_URL") as caught:
        email_config(url)
    assert SECRET not in str(caught.value)


@given(st.text())
def test_no_text_at_all_makes_a_reader_fail_in_another_way(raw: str):
    readers = [
        lambda: env(A=raw).number("A", 1, low=1, high=9),
        lambda: env(A=raw).words("A"),
        lambda: env(A=raw).origin("A", "http://localhost"),
        lambda: database_config(raw),
        lambda: email_config(raw),
    ]
    for read in readers:
        with contextlib.suppress(ImproperlyConfigured):
            read()
