"""Everything the credentials app raises. No message holds a key, a token or any part of one.

CredentialsError
├── InvalidKey               a pasted provider key cannot be sent in a header
├── InvalidDestination       a destination URL, header name or template is not allowed
├── InvalidLimit             a limit of a token or an endpoint makes no sense
├── KeyRefused               the provider answered that the key is not valid
├── KeyUnchecked             the provider could not be asked
├── UnknownProvider          no such provider here
├── ConfirmationMismatch     the typed subdomain is not the endpoint's
├── NotFound                 no such endpoint or token for this owner
└── SealError                something about sealed records
    ├── KeyringError         the master keys are missing, malformed or exposed
    ├── UnknownMasterKey     a record names a master key that is not in the keyring
    ├── WrongMasterKey       a master key is not the one its id was used with before
    ├── RetiredMasterKey     a master key was retired and seals no more
    ├── MasterKeyInUse       a master key cannot be retired yet
    ├── ProcessesBehind      running servers have not loaded the keyring that a rotation needs
    ├── RotationRunning      another rotation is at work
    └── CannotOpen           a record is not authentic, or not in the place it was sealed for
"""

from __future__ import annotations


class CredentialsError(Exception):
    """Base class; `str(error)` is a sentence that may be shown to the person."""


class InvalidKey(CredentialsError):
    """A pasted provider key is empty, too long, or holds spaces, line breaks or non-ASCII characters."""


class InvalidDestination(CredentialsError):
    """A destination URL, header name or header template is malformed or not allowed here."""

    def __init__(self, message: str, *, field: str = "destination_url") -> None:
        super().__init__(message)
        self.field = field


class InvalidLimit(CredentialsError):
    """A limit of a bearer token or an endpoint is malformed; `field` names it."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class KeyRefused(CredentialsError):
    """The provider answered 401 or 403 to the key."""


class KeyUnchecked(CredentialsError):
    """The provider could not be asked, so the key may be right or wrong."""


class UnknownProvider(CredentialsError):
    """No provider has this slug in this installation."""


class ConfirmationMismatch(CredentialsError):
    """What was typed to confirm is not the subdomain."""


class NotFound(CredentialsError):
    """No such object for this owner. The same error whether it belongs to somebody else or does not exist."""


class SealError(CredentialsError):
    """Base of everything that is wrong with sealed records or the keys that seal them."""


class KeyringError(SealError, ValueError):
    """The master keys are missing, malformed or readable by others."""


class UnknownMasterKey(SealError):
    """A record names a master key that is not in the keyring."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"The master key {key_id!r} is not in the keyring.")
        self.key_id = key_id


class WrongMasterKey(SealError):
    """A master key does not match the check value stored when its id was first used."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"The master key {key_id!r} is not the key that this id stood for before. "
            "Restore the keyring that belongs to this database."
        )
        self.key_id = key_id


class RetiredMasterKey(SealError):
    """A master key seals no more since `retire_master_key`; the keyring of this process still has it as primary."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"The master key {key_id!r} has been retired. Make another key the primary: manage.py create_master_key"
        )
        self.key_id = key_id


class MasterKeyInUse(SealError):
    """A master key cannot be retired while rows are wrapped under it or processes seal under it."""


class ProcessesBehind(SealError):
    """Server processes run that have not loaded the keyring of this command."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(
            "Running servers have not loaded the new master keys yet, or have another key under the same id: "
            f"{', '.join(names)}. Give them the same keyring file (they read it again by themselves) or restart them, "
            "and run this again."
        )
        self.names = names


class RotationRunning(SealError):
    """Another run holds the lock of rotations."""

    def __init__(self) -> None:
        super().__init__("Another rotation is running. Wait for it to end; it can be killed and run again.")


class CannotOpen(SealError):
    """A record does not open. One message for every cause: which one it was would help only an attacker."""

    def __init__(self) -> None:
        super().__init__("This sealed key cannot be opened. It needs its key again.")
