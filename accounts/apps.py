from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts import (
            checks,  # noqa: F401  (registers the system checks)
            navigation,
            outbox,
        )
        from accounts.navigation import Audience, Link
        from accounts.notices.mail import NOTICE
        from accounts.sessions import service  # noqa: F401  (connects the receivers of sign-in and sign-out)
        from accounts.sign_in.magic_links import SIGN_IN

        outbox.register(SIGN_IN)
        outbox.register(NOTICE)
        navigation.main_menu.add(
            Link("accounts:audit", "Audit", 30, icon="audit", audience=Audience.SIGNED_IN),
            Link("accounts:access_tokens", "Access tokens", 40, icon="key", audience=Audience.SIGNED_IN),
            Link("accounts:settings", "Settings", 50, icon="settings", audience=Audience.SIGNED_IN),
        )
