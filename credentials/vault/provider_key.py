"""A provider key on its way into the vault."""

from __future__ import annotations

from typing import NoReturn

from credentials.errors import InvalidKey

MAX_KEY_LENGTH = 8192  # Service-account keys are long, and most servers accept header lines of 8 KiB.


class ProviderKey:
    """A pasted provider key, cleaned. The constructor is the only place that cleans one.

    Surrounding white space is stripped. The rest must be visible ASCII of at most `MAX_KEY_LENGTH` characters, or
    `InvalidKey` is raised: an HTTP library would quote a key with a line break in its error message. `repr` hides the
    key, and a `ProviderKey` cannot be copied or pickled.
    """

    __slots__ = ("_text",)

    def __init__(self, pasted: str | ProviderKey) -> None:
        self._text: str = pasted.reveal() if isinstance(pasted, ProviderKey) else _cleaned(pasted)

    def reveal(self) -> str:
        """The plaintext, for the seal and for the provider's key check."""
        return self._text

    def __repr__(self) -> str:
        return "ProviderKey('…')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A provider key cannot be copied or pickled.")


def _cleaned(pasted: str) -> str:
    key = pasted.strip()
    if not key:
        raise InvalidKey("Paste the provider's API key.")
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidKey(f"That is longer than any API key ({MAX_KEY_LENGTH} characters at most).")
    if any(character.isspace() for character in key):
        raise InvalidKey("The key has spaces or line breaks inside. Copy it again, in one piece.")
    if not all("!" <= character <= "~" for character in key):
        raise InvalidKey("The key has characters that no API key has. Copy it again from the provider's page.")
    return key
