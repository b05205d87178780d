"""Configuration of the credentials app: endpoints, their sealed provider keys and their bearer tokens."""

from importlib import import_module

from django.apps import AppConfig


class CredentialsConfig(AppConfig):
    name = "credentials"

    def ready(self) -> None:
        from django.conf import settings

        from accounts import navigation, outbox, settings_cards
        from accounts.navigation import Audience, Link
        from accounts.notices import watch
        from credentials import notices
        from credentials.webhooks.card import CARD
        from credentials.webhooks.delivery import MESSAGE

        if settings.STRAKE_KEYRING_CHECKS:  # not in the web half, which must not load the keyring
            import_module(settings.STRAKE_KEYRING_CHECKS)
        navigation.main_menu.add(
            Link("credentials:endpoints", "Endpoints", 10, icon="endpoints", audience=Audience.SIGNED_IN)
        )
        navigation.pages.add("api_docs")
        outbox.register(MESSAGE)
        watch.register(notices.WATCHER)
        settings_cards.cards.append(CARD)
