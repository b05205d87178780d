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
    │   └── KeyringMissing   the keyring file does not exist
    ├── VaultUnavailable     the process that holds the master keys does not answer
    ├── UnknownMasterKey     a record names a master key that is not in the keyring
    ├── WrongMasterKey       a master key is not the one that its id stood for before
    ├── RetiredMasterKey     a master key was retired and may not seal
    ├── MasterKeyInUse       a master key cannot be retired yet
    ├── MasterKeyNotEverywhere   running servers lack a master key
    ├── NoServerSeen         no running server is seen, so nobody knows which master keys the servers have
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


class KeyringMissing(KeyringError):
    """The keyring file does not exist. Whether it must be restored or may be created depends on the database."""


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
    """A master key cannot be retired while rows are wrapped under it or servers seal under it."""


class MasterKeyNotEverywhere(SealError):
    """Running server processes lack a master key, or have another key under its id. `servers` names them."""

    def __init__(self, key_id: str, servers: str) -> None:
        super().__init__(
            f"These servers have not loaded the master key {key_id}, or have another key under this id: {servers}. "
            "Give their hosts the same keyring. A changed file is read on its own. With STRAKE_MASTER_KEYS_COMMAND, "
            "reload the service, and with STRAKE_MASTER_KEYS restart it. Then run this again."
        )
        self.servers = servers


class NoServerSeen(SealError):
    """The database shows no running server process that holds master keys."""

    def __init__(self) -> None:
        super().__init__(
            "No running server is seen in the database, so nobody knows which master keys the servers have. If servers "
            "run, find out why they cannot write to this database. If none runs, repeat this with --no-server."
        )


class RotationRunning(SealError):
    """Another run holds the rotation lock."""

    def __init__(self) -> None:
        super().__init__("Another rotation is running. Wait for it to end. It can be killed and run again.")


class CannotOpen(SealError):
    """A record does not open. Every cause has the same message, because the difference would only help an attacker."""

    def __init__(self) -> None:
        super().__init__("This sealed key cannot be opened. It needs its key again.")
