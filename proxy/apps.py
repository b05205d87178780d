from django.apps import AppConfig


class ProxyConfig(AppConfig):
    name = "proxy"

    def ready(self) -> None:
        from accounts.notices import watch
        from proxy import notices

        for watcher in notices.WATCHERS:
            watch.register(watcher)
