"""People: finding them."""

from __future__ import annotations

from accounts.addresses import normalise_email
from accounts.errors import NotFound
from accounts.models import User


def find(email: str) -> User:
    """The user with this address. Raises `InvalidEmail` or `NotFound`."""
    email = normalise_email(email)
    user = User.objects.filter(email=email).first()
    if user is None:
        raise NotFound(f"There is no user {email}. `manage.py signin_link {email}` makes one.")
    return user
