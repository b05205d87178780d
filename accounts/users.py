"""People: finding them, and leaving."""

from __future__ import annotations

from django.db import transaction

from accounts import audit, sessions
from accounts.addresses import normalise_email
from accounts.audit import Actor
from accounts.erasure import erase_deleted
from accounts.errors import ConfirmationMismatch, NotFound
from accounts.models import SignInLink, User


def find(email: str) -> User:
    """The user with this address. Raises `InvalidEmail` or `NotFound`."""
    email = normalise_email(email)
    user = User.objects.filter(email=email).first()
    if user is None:
        raise NotFound(f"There is no user {email}. `manage.py signin_link {email}` makes one.")
    return user


def delete_account(*, actor: Actor, confirmation: str) -> None:
    """Delete the actor's account with everything that belongs to it: endpoints, sealed keys, tokens, sessions.

    The audit trail stays, for operators. Raises `ConfirmationMismatch` unless `confirmation` is the e-mail address.
    """
    user = actor.user
    if user is None:
        raise NotFound("Operators have no account to delete.")
    if confirmation.strip().lower() != user.email:
        raise ConfirmationMismatch(f"Type {user.email} to delete your account.")
    with transaction.atomic():
        audit.record(
            actor, "user.deleted", account=user, subject_type="user", subject_id=user.pk, subject_label=user.email
        )
        sessions.revoke_sessions(actor=actor, user=user)
        SignInLink.objects.filter(email=user.email).delete()
        User.objects.get(pk=user.pk).delete()
        erase_deleted()
