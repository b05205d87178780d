"""Random tokens with a checksum: bearer tokens (`strk_…`), access tokens (`pat_…`) and sign-in links (`link_…`).

A token is `prefix` + 43 base62 characters (256 random bits) + 6 base62 characters (CRC-32 of everything before).
The checksum rejects typos without a database look-up, and lets secret scanners match tokens without false positives.
Only SHA-256 digests are stored. At 256 bits of entropy a fast hash is enough (OWASP ASVS 5.0, 6.5.2).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from urllib.parse import unquote_to_bytes

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_LENGTH = 43  # 62**43 > 2**256
CHECKSUM_LENGTH = 6  # 62**6 > 2**32
PREFIXES = ("strk_", "pat_", "link_")
_VALUES = {character: value for value, character in enumerate(ALPHABET)}
_RANDOM_AND_CHECKSUM = re.compile(r"[0-9A-Za-z]{49}\Z")
# A look-ahead, since the end of one candidate may be the beginning of the next.
_CANDIDATE = re.compile(rb"(?=((strk_|pat_|link_)[0-9A-Za-z]{49}))")
_MAX_DECODINGS = 3
_UNDERSCORE, _PERCENT = ord("_"), ord("%")


def mint(prefix: str) -> str:
    """Generate a token, for example `mint("strk_")`. The caller shows it once and stores only its `digest`."""
    body = prefix + _base62(int.from_bytes(secrets.token_bytes(32)), RANDOM_LENGTH)
    return body + _checksum(body)


def is_well_formed(token: str, prefix: str) -> bool:
    """Return whether `token` has this prefix, the right length and alphabet, and a matching checksum."""
    if token[: len(prefix)] != prefix or not _RANDOM_AND_CHECKSUM.match(token, len(prefix)):
        return False
    checksum = 0
    for character in token[-CHECKSUM_LENGTH:]:
        checksum = checksum * 62 + _VALUES[character]
    return checksum == zlib.crc32(token[:-CHECKSUM_LENGTH].encode())


def contains(text: bytes) -> bool:
    """Return whether a well-formed token of any kind is anywhere in `text`, as it is or percent-encoded (RFC 3986).

    Decodes up to three times. A token may have any characters before and after it.
    """
    # Bytes are looked for as numbers, which is one `memchr`. Hardly any text has these.
    if _UNDERSCORE not in text and _PERCENT not in text:
        return False
    for _ in range(_MAX_DECODINGS + 1):
        if _UNDERSCORE in text and any(
            is_well_formed(match[1].decode("ascii"), match[2].decode("ascii")) for match in _CANDIDATE.finditer(text)
        ):
            return True
        if _PERCENT not in text:
            return False
        text = unquote_to_bytes(text)
    return False


def digest(token: str) -> bytes:
    """SHA-256 of the whole token, 32 bytes. It includes the prefix, so kinds of token cannot be confused."""
    return hashlib.sha256(token.encode()).digest()


def preview(token: str, prefix: str) -> str:
    """A displayable excerpt to tell tokens apart: the prefix and 4 of the 43 random characters."""
    return f"{prefix}{token[len(prefix) : len(prefix) + 4]}…"


def random_id(prefix: str, length: int = 16) -> str:
    """A public identifier that does not reveal the order or number of rows."""
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    characters = []
    for _ in range(length):
        number, index = divmod(number, 62)
        characters.append(ALPHABET[index])
    return "".join(reversed(characters))
