"""Names of endpoints that their owner did not name."""

from __future__ import annotations

import itertools
from urllib.parse import urlsplit

from accounts.models import User
from credentials.models import Endpoint
from credentials.providers import Provider


def default_label(owner: User, provider: Provider, destination_url: str) -> str:
    """The provider's name, or the host name of a destination that the owner entered. A number makes it unique."""
    name = provider.name
    if provider.needs_destination:
        name = urlsplit(destination_url).hostname or name
    name = name[:90]
    taken = set(Endpoint.objects.filter(owner=owner, label__startswith=name).values_list("label", flat=True))
    if name not in taken:
        return name
    return next(label for number in itertools.count(2) if (label := f"{name} {number}") not in taken)
