"""Links between apps. An app registers its links in `AppConfig.ready`, and the `ui` template library shows them.

Templates of a lower app never name a route of a higher app. They use these registries instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from django.contrib.auth.models import AnonymousUser

from accounts.models import User


class Audience(Enum):
    """The people who see a link."""

    EVERYBODY = auto()
    SIGNED_OUT = auto()
    SIGNED_IN = auto()
    STAFF = auto()

    def includes(self, user: User | AnonymousUser) -> bool:
        if self is Audience.STAFF:
            return user.is_authenticated and user.is_staff
        return self is Audience.EVERYBODY or (self is Audience.SIGNED_IN) == user.is_authenticated


@dataclass(frozen=True, slots=True)
class Link:
    """One entry of a menu. `icon` names a symbol in icons.svg. Consecutive links of one `group` are below its name."""

    route: str
    label: str
    order: int
    icon: str = ""
    audience: Audience = Audience.EVERYBODY
    group: str = ""


class Menu:
    """The links that apps have registered for one place of every page, sorted by `order`."""

    def __init__(self) -> None:
        self.links: list[Link] = []

    def add(self, *links: Link) -> None:
        self.links = sorted([*self.links, *links], key=lambda link: link.order)


main_menu = Menu()
footer = Menu()
# Routes that a template of a lower app may link to, with `{% page_url %}`.
pages: set[str] = set()
