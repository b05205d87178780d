from django.apps import AppConfig

OPERATE = "Operate"  # the part of the menu for staff


class StrakeConfig(AppConfig):
    name = "strake"

    def ready(self) -> None:
        from strake import checks, deploy_checks

        self.checks = (checks, deploy_checks)  # importing them has registered them
        from accounts import navigation
        from accounts.navigation import Audience, Link
        from credentials.dashboard import panels
        from credentials.dashboard.panels import Column, Panel, Place
        from proxy.access.path_patterns import PathPatterns
        from proxy.request_log.stats import total_last_day
        from strake.pages.first_run import operator_steps
        from strake.pages.panels import recent_panel, requests_last_day, traffic_panel
        from strake.pages.token_use import use_of

        navigation.main_menu.add(
            Link("activity", "Activity", 20, icon="activity", audience=Audience.SIGNED_IN),
            Link("docs", "Docs", 60, icon="docs"),
            Link("security", "Security", 70, icon="lock", audience=Audience.SIGNED_OUT),
            Link("privacy", "Privacy", 71, icon="people", audience=Audience.SIGNED_OUT),
            Link("operators:health", "Health", 80, icon="health", audience=Audience.STAFF, group=OPERATE),
            Link("operators:people", "People", 81, icon="people", audience=Audience.STAFF, group=OPERATE),
            Link("operators:endpoints", "All endpoints", 82, icon="shield", audience=Audience.STAFF, group=OPERATE),
        )
        navigation.footer.add(Link("security", "Security", 10), Link("privacy", "Privacy", 20))
        navigation.pages.update({"activity", "docs", "docs_browsers", "docs_errors", "docs_tool", "security", "theme"})

        panels.facts.use_of = use_of
        panels.facts.path_allowed = lambda entries, method, path: PathPatterns(entries).match(method, path)
        panels.facts.operator_steps = operator_steps
        panels.columns.append(Column("requests", "Requests, 24 h", requests_last_day, total_last_day))
        panels.panels.update(
            {
                Place.BELOW_ENDPOINT_FACTS: Panel("strake/traffic_card.html", traffic_panel),
                Place.BELOW_ENDPOINT_TOKENS: Panel("strake/recent_card.html", recent_panel),
                Place.BELOW_NEW_TOKEN: Panel("strake/connection_test_form.html"),
            }
        )
