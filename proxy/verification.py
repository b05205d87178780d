"""Does every sealed key open where it stands? For `verify_vault`; nothing of a key leaves this module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from credentials import keyring
from credentials.errors import UnknownMasterKey
from credentials.models import Credential
from proxy.unsealing import is_authentic


@dataclass(frozen=True, slots=True)
class Finding:
    """One credential; `problem` is empty where it opens."""

    subdomain: str
    owner: str
    problem: str = ""


def verify() -> Iterator[Finding]:
    """Open the wrap and check the seal of every credential, one after the other. Raises `KeyringError`."""
    ring = keyring.current()
    credentials = Credential.objects.select_related("endpoint__owner").order_by("pk")
    for credential in credentials.iterator(chunk_size=500):
        endpoint = credential.endpoint
        yield Finding(endpoint.subdomain, endpoint.owner.email, _problem(credential, ring))


def _problem(credential: Credential, ring: keyring.Keyring) -> str:
    try:
        if is_authentic(credential.sealed(), credential.binding(), ring):
            return ""
    except UnknownMasterKey as error:
        return f"needs the master key {error.key_id!r}, which the keyring lacks"
    return "does not open: it was changed, moved, or sealed under another master key"
