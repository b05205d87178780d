"""Random tokens with a checksum: bearer tokens (`strk_…`), access tokens (`pat_…`) and sign-in links (`link_…`).

A token is `prefix` + 43 base62 characters (256 random bits) + 6 base62 characters of the CRC-32 of what stands before.
The checksum lets a typo be refused without a look-up and lets secret scanners match the form without false alarms.
Only SHA-256 digests are stored: with 256 random bits a plain hash cannot be searched (OWASP ASVS 5.0, 6.5.2).
"""

from __future__ import annotations

import hashlib
import secrets
import zlib

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_LENGTH = 43  # 62**43 > 2**256
CHECKSUM_LENGTH = 6  # 62**6 > 2**32
_ALPHABET_SET = frozenset(ALPHABET)


def mint(prefix: str) -> str:
    """A new token, e.g. `mint("strk_")`. The caller shows it once and keeps only its `digest`."""
    body = prefix + _base62(int.from_bytes(secrets.token_bytes(32)), RANDOM_LENGTH)
    return body + _checksum(body)


def is_well_formed(token: str, prefix: str) -> bool:
    """Whether `token` has this prefix, the right length and alphabet, and a matching checksum."""
    if len(token) != len(prefix) + RANDOM_LENGTH + CHECKSUM_LENGTH or not token.startswith(prefix):
        return False
    body, checksum = token[:-CHECKSUM_LENGTH], token[-CHECKSUM_LENGTH:]
    return _ALPHABET_SET.issuperset(token[len(prefix) :]) and _checksum(body) == checksum


def digest(token: str) -> bytes:
    """The SHA-256 of the whole token, 32 bytes. The prefix inside keeps the kinds of token apart."""
    return hashlib.sha256(token.encode()).digest()


def preview(token: str, prefix: str) -> str:
    """What may be shown to tell tokens apart: the prefix and four of the 43 random characters."""
    return f"{prefix}{token[len(prefix) : len(prefix) + 4]}…"


def random_id(prefix: str, length: int = 16) -> str:
    """A public identifier that tells nothing of the order or number of rows."""
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    characters = []
    for _ in range(length):
        number, index = divmod(number, 62)
        characters.append(ALPHABET[index])
    return "".join(reversed(characters))
