"""Finding, suspending and erasing people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.db import transaction
from django.db.models import CASCADE, Q
from django.utils import timezone

from accounts import audit, retention
from accounts.actors import Actor, Operator, Person, Staff
from accounts.addresses import normalise_email
from accounts.errors import ConfirmationMismatch, NotFound, OwnAccount
from accounts.models import AuditEvent, OutboxMail, SignInLink, User
from accounts.sessions import service as sessions
from accounts.transactions import secure_delete_on_commit

MAX_REASON_LENGTH = 200
LOCAL_EMAIL = "me@localhost.localdomain"  # the first account on loopback, unless somebody chooses another


@dataclass(frozen=True, slots=True)
class Suspension:
    """What `suspend` did. `is_new` is False if the person was suspended already."""

    is_new: bool
    sessions: int = 0
    links: int = 0


def find(email: str) -> User:
    """Return the user with this email address. Raises `InvalidEmail` or `NotFound`."""
    email = normalise_email(email)
    user = User.objects.filter(email=email).first()
    if user is None:
        raise NotFound(f"There is no user {email}. Run `manage.py signin_link {email}` to create one.")
    return user


def of_this_machine() -> User | None:
    """Return the account of the person at this machine: on loopback, `serve` prints a sign-in link for the first."""
    return User.objects.filter(suspended_at=None).order_by("created_at").first()


# --- Suspending ----------------------------------------------------------------------------------------------------


def suspend(*, actor: Operator, user: User, reason: str = "") -> Suspension:
    """Take all access from a person until `resume`, and keep what they own.

    Ends their sessions, and deletes their sign-in links and emails that wait. From then on, they cannot sign in, and
    their access tokens and their endpoints' tokens are refused. `reason` is for the audit log. Raises `OwnAccount` if
    staff would suspend themselves.
    """
    if isinstance(actor, Staff) and actor.person.user == user:
        raise OwnAccount("You can't suspend yourself. Another member of staff can.")
    with transaction.atomic():
        now = timezone.now()
        if not User.objects.filter(pk=user.pk, suspended_at=None).update(suspended_at=now):
            return Suspension(is_new=False)
        OutboxMail.objects.filter(email=user.email).delete()
        links, _ = SignInLink.objects.filter(email=user.email).delete()
        details = {"reason": reason[:MAX_REASON_LENGTH]} if reason else {}
        _audit(actor, "user.suspended", user, {"from": "active", "to": "suspended", **details})
        ended = sessions.revoke_sessions(actor=actor, user=user)
    user.suspended_at = now
    return Suspension(True, ended, links)


def last_suspension(user: User) -> AuditEvent | None:
    """The event of the last time that somebody suspended `user`. It says who, when and why."""
    events = AuditEvent.objects.filter(account=user, action="user.suspended").select_related("actor")
    return events.order_by("-at").first()


def resume(*, actor: Operator, user: User) -> bool:
    """End a suspension. Tokens work again, and the person can sign in. Returns False if there was none."""
    with transaction.atomic():
        since = User.objects.select_for_update().values_list("suspended_at", flat=True).get(pk=user.pk)
        if since is None:
            return False
        User.objects.filter(pk=user.pk).update(suspended_at=None)
        _audit(actor, "user.resumed", user, {"from": "suspended", "to": "active", "suspended_at": since})
    user.suspended_at = None
    return True


def demote(*, actor: Operator, user: User) -> bool:
    """Take the rights of staff from a person, from their next request on. Returns False if they had none."""
    with transaction.atomic():
        if not User.objects.filter(pk=user.pk, is_staff=True).update(is_staff=False):
            return False
        _audit(actor, "user.demoted", user, {"from": "staff", "to": "person"})
    user.is_staff = False
    return True


# --- Erasing -------------------------------------------------------------------------------------------------------


def delete_account(*, actor: Person, confirmation: str) -> None:
    """Delete the actor's account, as `erase` does.

    Raises `ConfirmationMismatch` unless `confirmation` is the email address.
    """
    user = actor.user
    if confirmation.strip().lower() != user.email:
        raise ConfirmationMismatch(f"Type {user.email} to delete your account.")
    erase(actor=actor, user=user)


def erase(*, actor: Actor, user: User, events: bool = False) -> int:
    """Delete an account with all its endpoints, sealed keys, tokens and sessions. Audit events stay, for operators.

    With `events`, the content of their audit events is erased too, and only the hashes stay. Returns the number of
    these events. With database roles, only the owner may do that. Raises `NotFound` if a person wants to erase somebody
    else.
    """
    if isinstance(actor, Person) and actor.user != user:
        raise NotFound("There is no such user.")
    with transaction.atomic():
        _audit(actor, "user.deleted", user, holdings(user))
        sessions.revoke_sessions(actor=actor, user=user)
        OutboxMail.objects.filter(email=user.email).delete()
        SignInLink.objects.filter(email=user.email).delete()
        User.objects.get(pk=user.pk).delete()
        erased = _erase_events(actor, user) if events else 0
        secure_delete_on_commit()
    return erased


def _erase_events(actor: Actor, user: User) -> int:
    """Erase the events about a deleted account, and those about its address from before it existed."""
    of_address = Q(account=None, actor=None, subject_type__in=("email", "link"), subject_label=user.email)
    erased = retention.prune(AuditEvent.objects.filter(Q(account_id=user.pk) | Q(actor_id=user.pk) | of_address))
    audit.record(actor, "audit.erased", account=None, subject_type="audit", subject_id="", details={"events": erased})
    return erased


def holdings(user: User) -> dict[str, int]:
    """How many rows of each kind `erase` deletes with the account, such as `{"endpoints": 3}`."""
    names = [
        relation.get_accessor_name() or "" for relation in User._meta.related_objects if relation.on_delete is CASCADE
    ]
    return {name: getattr(user, name).count() for name in sorted(names) if name}


def _audit(actor: Actor, action: str, user: User, details: Mapping[str, object]) -> None:
    audit.record(
        actor,
        action,
        account=user,
        subject_type="user",
        subject_id=user.pk,
        subject_label=user.email,
        details=details,
    )
