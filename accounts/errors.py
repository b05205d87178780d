"""Everything the accounts app raises. No message holds a token or a link.

AccountsError
├── InvalidEmail            what was typed is not an e-mail address
├── InvalidLabel            an access token has no label, or too long a one
├── InvalidExpiry           an access token would end before it begins
├── ConfirmationMismatch    what was typed to confirm is not the e-mail address
├── LinkNotValid            a sign-in link is unknown, used, expired or mangled; one answer for all
├── StoreUnavailable        the session or limit store does not answer
├── NotFound                no such object for this person
└── AppendOnly              code tried to change the audit trail
"""

from __future__ import annotations


class AccountsError(Exception):
    """Base class; `str(error)` is a sentence that may be shown to the person."""


class InvalidEmail(AccountsError):
    """What was typed is not an e-mail address."""


class InvalidLabel(AccountsError):
    """The label of an access token is empty or too long."""


class InvalidExpiry(AccountsError):
    """The end of an access token lies in the past."""


class ConfirmationMismatch(AccountsError):
    """What was typed to confirm is not the e-mail address of the account."""


class LinkNotValid(AccountsError):
    """A sign-in link is unknown, used, expired or mangled. Which of them is nobody's business."""


class StoreUnavailable(AccountsError):
    """The store behind sessions or limits does not answer; try again, nobody was signed out."""


class NotFound(AccountsError):
    """No such object for this person, whether it is somebody else's or does not exist."""


class AppendOnly(AccountsError):
    """Audit events are never changed or deleted one by one; `manage.py prune` removes old ones."""
