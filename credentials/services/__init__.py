"""The operations on endpoints, provider keys and bearer tokens.

Each one looks up its object among those that the actor may change, and writes the change and its audit event in one
transaction. Plaintext tokens exist only in the return values, to be shown once.
"""

from credentials.services.bearer_tokens import (
    Issued,
    duplicate_token,
    issue_token,
    revoke_all_tokens,
    revoke_held,
    revoke_token,
    revoke_tokens,
    rotate_token,
    update_token,
)
from credentials.services.common import get_endpoint
from credentials.services.endpoints import (
    Connected,
    change_destination,
    connect,
    delete_endpoint,
    limit_endpoint,
    pause,
    rename,
    replace_key,
    resume,
)

__all__ = [
    "Connected",
    "Issued",
    "change_destination",
    "connect",
    "delete_endpoint",
    "duplicate_token",
    "get_endpoint",
    "issue_token",
    "limit_endpoint",
    "pause",
    "rename",
    "replace_key",
    "resume",
    "revoke_all_tokens",
    "revoke_held",
    "revoke_token",
    "revoke_tokens",
    "rotate_token",
    "update_token",
]
