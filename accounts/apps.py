from django.apps import AppConfig
from django.contrib.admin import apps as admin


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts import (
            checks,  # noqa: F401  (registers the system checks)
            sessions,  # noqa: F401  (from the first sign-in on, sessions are noted)
        )


class Operators(admin.AdminConfig):
    """Django's admin, with a site of our own."""

    default = False  # the app in this package that is meant by its name is the one above
    default_site = "accounts.operators.OperatorSite"
