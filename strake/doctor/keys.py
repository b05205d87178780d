"""The keyring of this host."""

from __future__ import annotations

from credentials.errors import KeyringError
from credentials.vault import keyring
from strake.health.findings import BAD, GOOD, Finding


def look() -> Finding:
    try:
        ring = keyring.current()
    except KeyringError as error:
        return Finding("Keyring", BAD, str(error))
    return Finding("Keyring", GOOD, f"this host has {', '.join(sorted(ring.ids))}, and {ring.primary_id} is primary")
