"""Normalisation of email and IP addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.addresses import client_address, normalise_email, parse_address
from accounts.errors import InvalidEmail


@given(st.emails())
def test_normalising_is_idempotent(email: str) -> None:
    try:
        once = normalise_email(email)
    except InvalidEmail:
        return
    assert normalise_email(once) == once == once.lower()


@given(st.text())
def test_any_text_is_normalised_or_rejected(text: str) -> None:
    try:
        email = normalise_email(text)
    except InvalidEmail as error:
        message = str(error)
    else:
        message = "an email address" if email.isprintable() and email.isascii() and "@" in email else ""
    assert "email address" in message


@pytest.mark.parametrize(
    ("hops", "forwarded", "expected"),
    [
        (0, [], "192.0.2.1"),
        (0, ["198.51.100.1"], "192.0.2.1"),
        (1, ["198.51.100.1"], "198.51.100.1"),
        (1, ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
        (1, ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
        (2, ["6.6.6.6, 198.51.100.1, 10.0.0.1"], "198.51.100.1"),
        (2, ["198.51.100.1"], "192.0.2.1"),
        (1, ["::ffff:198.51.100.1"], "198.51.100.1"),
        (1, ["[2001:db8::1]"], "2001:db8::1"),
        (1, ["6.6.6.6, 198.51.100.1:4711"], "198.51.100.1"),
        (1, ["[2001:db8::1]:4711"], "2001:db8::1"),
        (1, ["2001:db8::1"], "2001:db8::1"),
        (1, ["unknown"], "None"),
    ],
)
def test_client_is_the_address_the_nth_proxy_saw(hops: int, forwarded: list[str], expected: str) -> None:
    assert str(client_address("192.0.2.1", forwarded, hops)) == expected


def test_invalid_ip_address_is_none() -> None:
    for text in ["", "unix:", "1.2.3", "example.org", "1.2.3.4:80"]:
        assert parse_address(text) is None
