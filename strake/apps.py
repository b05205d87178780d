from django.apps import AppConfig


class StrakeConfig(AppConfig):
    name = "strake"

    def ready(self) -> None:
        from strake import checks, deploy_checks

        self.checks = (checks, deploy_checks)  # importing them has registered them
        from accounts import navigation
        from accounts.navigation import Audience, Link
        from credentials.dashboard import panels
        from credentials.dashboard.panels import Column, Panel, Place
        from proxy.request_log.stats import total_last_day
        from strake.pages.panels import recent_panel, requests_last_day, traffic_panel

        navigation.main_menu.add(
            Link("activity", "Activity", 20, icon="activity", audience=Audience.SIGNED_IN),
            Link("docs", "Docs", 60, icon="docs"),
            Link("security", "Security", 70, icon="lock", audience=Audience.SIGNED_OUT),
            Link("privacy", "Privacy", 71, icon="people", audience=Audience.SIGNED_OUT),
            Link("health", "Health", 80, icon="health", audience=Audience.STAFF),
        )
        navigation.footer.add(Link("security", "Security", 10), Link("privacy", "Privacy", 20))
        navigation.pages.update({"docs", "docs_browsers", "docs_tool", "security", "theme"})

        panels.columns.append(Column("requests", "Requests, 24 h", requests_last_day, total_last_day))
        panels.panels.update(
            {
                Place.BELOW_ENDPOINT_FACTS: Panel("strake/traffic_card.html", traffic_panel),
                Place.BELOW_ENDPOINT_TOKENS: Panel("strake/recent_card.html", recent_panel),
                Place.BELOW_NEW_TOKEN: Panel("strake/connection_test_form.html"),
            }
        )
