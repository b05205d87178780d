"""Exceptions of the accounts app. No message contains a token or a link.

AccountsError
├── InvalidEmail                the text is not an email address
├── InvalidLabel                a label is empty, too long or not plain text
├── InvalidExpiry               an access token would expire in the past
├── UnknownNotice               there is no kind of notice with this name
├── InvalidWebhook              notices cannot be sent to this URL
├── InvalidScope                there is no such scope of access tokens, or none was chosen
├── InvalidNetwork              the text is not a network, or there are too many
├── ScopeMissing                an access token lacks the scope that an operation needs
├── NetworkNotAllowed           an access token may not be used from this address
├── ConfirmationMismatch        the typed confirmation is not what was asked for
├── LinkNotValid                a sign-in link is unknown, used, expired or malformed
├── SessionStoreUnavailable     the store of sessions and rate limits does not respond
├── QuotaReached                the person holds as many objects as are allowed
├── TooManyRequests             a person or a network has done something too often
├── ServerBusy                  this process does as much of something as it can
├── NotFound                    the object does not exist, or this actor may not see it
├── Suspended                   the person is suspended
├── OwnAccount                  staff tried to suspend themselves
├── DeviceGrantError            a device code yields no access token now
│   ├── AuthorizationPending    nobody has decided yet
│   ├── SlowDown                the program asks too often
│   ├── AccessDenied            the person denied the request
│   ├── DeviceCodeExpired       nobody decided in time
│   └── InvalidDeviceCode       the device code is unknown or was used
└── AppendOnly                  code tried to change an audit event
"""

from __future__ import annotations


class AccountsError(Exception):
    """Base class. `str(error)` is a sentence that may be shown to the user."""


class InvalidEmail(AccountsError):
    """The text is not an email address."""


class InvalidLabel(AccountsError):
    """A label is empty, too long, or contains control characters."""


class InvalidExpiry(AccountsError):
    """The expiry of an access token is in the past."""


class UnknownNotice(AccountsError):
    """There is no kind of notice with this name."""


class InvalidWebhook(AccountsError):
    """Notices cannot be sent to this URL."""


class InvalidScope(AccountsError):
    """There is no such scope of access tokens, or none was chosen."""


class InvalidNetwork(AccountsError):
    """The text is not an IP address or network, or there are too many of them."""


class ScopeMissing(AccountsError):
    """An access token lacks the scope that an operation needs. The message names the scope."""


class NetworkNotAllowed(AccountsError):
    """An access token is limited to other networks."""


class ConfirmationMismatch(AccountsError):
    """The typed confirmation does not match what is about to be deleted."""


class LinkNotValid(AccountsError):
    """A sign-in link is unknown, used, expired or malformed. The message never says which."""


class SessionStoreUnavailable(AccountsError):
    """The store of sessions and rate limits does not respond. Nobody has been signed out."""


class QuotaReached(AccountsError):
    """The person holds as many objects of a kind as a setting allows. The message names the setting."""


class TooManyRequests(AccountsError):
    """A person or a network has done something too often. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServerBusy(AccountsError):
    """This process does as much of something as it can. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotFound(AccountsError):
    """The object does not exist, or it belongs to somebody else."""


class Suspended(AccountsError):
    """The person is suspended, so nothing acts for them."""


class OwnAccount(AccountsError):
    """Staff tried to suspend themselves. Somebody must be left who can resume people."""


class DeviceGrantError(AccountsError):
    """A device code yields no access token now. `code` is that of RFC 8628, section 3.5, or RFC 6749, section 5.2."""

    code = "invalid_grant"


class AuthorizationPending(DeviceGrantError):
    """Nobody has decided yet."""

    code = "authorization_pending"


class SlowDown(DeviceGrantError):
    """The program asks too often. It adds five seconds to its interval."""

    code = "slow_down"


class AccessDenied(DeviceGrantError):
    """The person denied the request, or is suspended."""

    code = "access_denied"


class DeviceCodeExpired(DeviceGrantError):
    """Nobody decided in time."""

    code = "expired_token"


class InvalidDeviceCode(DeviceGrantError):
    """The device code is unknown, belongs to another client, or was used."""


class AppendOnly(AccountsError):
    """Audit events cannot be changed, and only `manage.py prune` and `erase_person --audit` delete them."""
