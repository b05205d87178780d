"""The exceptions of the credentials app. No message contains a key, a token or any part of one.

CredentialsError
├── InvalidKey               a pasted provider key cannot be sent in a header
├── InvalidDestination       a destination URL, header name or header template is not allowed
├── InvalidLimit             a limit of a token or an endpoint is not valid
├── KeyRefused               the provider rejected the key
├── KeyUnchecked             the provider could not be asked about the key
├── UnknownProvider          no provider has this slug
├── CloudTokenError          a cloud's token server gave no access token
└── SealError                a problem with sealed keys or master keys
    ├── KeyringError         the master keys are missing, malformed or exposed (also a ValueError)
    ├── VaultUnavailable     the process that holds the master keys does not answer
    ├── UnknownMasterKey     a record names a master key that is not in the keyring
    ├── WrongMasterKey       a master key is not the one that its id stood for before
    ├── RetiredMasterKey     a master key was retired and may not seal
    ├── MasterKeyInUse       a master key cannot be retired yet
    ├── ProcessesBehind      running servers have not loaded the keyring that a rotation needs
    ├── RotationRunning      another rotation is running
    └── CannotOpen           a record is not authentic, or not in the place it was sealed for

The services also raise `NotFound` and `ConfirmationMismatch` from `accounts.errors`.
"""

from __future__ import annotations


class CredentialsError(Exception):
    """Base class. `str(error)` is a sentence that may be shown to the person."""


class InvalidKey(CredentialsError):
    """A pasted provider key cannot be one: it is empty, too long, or has characters that no key has.

    `field` names what is wrong: the key, or what belongs to it.
    """

    def __init__(self, message: str, *, field: str = "api_key") -> None:
        super().__init__(message)
        self.field = field


class InvalidDestination(CredentialsError):
    """A destination URL, a header or another place of the key is malformed or not allowed. `field` names it."""

    def __init__(self, message: str, *, field: str = "destination_url") -> None:
        super().__init__(message)
        self.field = field


class InvalidLimit(CredentialsError):
    """A limit of a bearer token or an endpoint is malformed or out of range. `field` names it."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class KeyRefused(CredentialsError):
    """The provider responded to the key as it does to an invalid one."""


class KeyUnchecked(CredentialsError):
    """The provider could not be asked, so the key may be valid or not."""


class UnknownProvider(CredentialsError):
    """This installation has no provider with this slug."""


class CloudTokenError(CredentialsError):
    """A cloud's token server gave no access token. `code` is one of `credentials.cloud_tokens`, never its text."""

    def __init__(self, code: str) -> None:
        super().__init__(f"The token server gave no access token ({code}).")
        self.code = code


class SealError(CredentialsError):
    """Base class of all problems with sealed keys and with the master keys that seal them."""


class KeyringError(SealError, ValueError):
    """The master keys are missing, malformed or readable by other users."""


class VaultUnavailable(SealError):
    """The process that holds the master keys can't be reached, does not answer, or is of another version."""

    def __init__(self) -> None:
        super().__init__("The vault can't be reached. Nothing was saved. Try again in a moment.")


class UnknownMasterKey(SealError):
    """A record names a master key that is not in the keyring."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"The master key {key_id!r} is not in the keyring.")
        self.key_id = key_id


class WrongMasterKey(SealError):
    """A master key does not match the check value that was stored when its id was first used."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"The master key {key_id!r} is not the key that this id stood for before. "
            "Restore the keyring that belongs to this database."
        )
        self.key_id = key_id


class RetiredMasterKey(SealError):
    """`retire_master_key` has retired a master key that is still the primary in this process's keyring."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"The master key {key_id!r} has been retired. Make another key the primary: manage.py create_master_key"
        )
        self.key_id = key_id


class MasterKeyInUse(SealError):
    """A master key cannot be retired while rows are wrapped under it or processes seal under it."""


class ProcessesBehind(SealError):
    """Running server processes have not loaded the keyring of this command. `names` lists them."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(
            "Running servers have not loaded the new master keys yet, or have another key under the same id: "
            f"{', '.join(names)}. Give them the same keyring file, which they read again on their own, or restart "
            "them. Then run this again."
        )
        self.names = names


class RotationRunning(SealError):
    """Another run holds the rotation lock."""

    def __init__(self) -> None:
        super().__init__("Another rotation is running. Wait for it to end. It can be killed and run again.")


class CannotOpen(SealError):
    """A record does not open. Every cause has the same message, because the difference would only help an attacker."""

    def __init__(self) -> None:
        super().__init__("This sealed key cannot be opened. It needs its key again.")
