"""Mutations of templates, scripts and styles, which the tests in Chromium must notice."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

LISTS = "tests/browser/test_lists.py"
TOKENS = "tests/browser/test_token_pages.py"
BY_FILE: dict[str, list[Mutation]] = {
    "strake/static/strake/css/components/tables.css": [
        Mutation(
            "",
            "a list does not become narrower with its room",
            "@container (max-width: 50rem) {",
            "@container (max-width: 1rem) {",
            (f"{LISTS}::test_lists_fit_six_widths",),
        ),
        Mutation(
            "",
            "a row of a list does not become two lines on a phone",
            "@container (max-width: 36rem) {",
            "@container (max-width: 1rem) {",
            (f"{LISTS}::test_lists_fit_six_widths",),
        ),
    ],
    "templates/strake/traffic.html": [
        Mutation(
            "",
            "a figure counts other requests than the rows",
            "{{ total.total|thousands }}",
            "{{ total.refused|thousands }}",
            (f"{LISTS}::test_figures_and_chart_agree_with_the_rows",),
        ),
    ],
    "strake/static/strake/js/charts.js": [
        Mutation(
            "",
            "the keys do not move in a chart",
            "if (!(event.key in moves)) return;",
            "return;",
            (f"{LISTS}::test_figures_and_chart_agree_with_the_rows",),
        ),
        Mutation(
            "",
            "a chart has no values for the pointer",
            'plot.addEventListener("pointermove", showAt);',
            "",
            (f"{LISTS}::test_figures_and_chart_agree_with_the_rows",),
        ),
    ],
    "templates/credentials/endpoints.html": [
        Mutation(
            "",
            "a quick filter forgets what was searched",
            'href="{% query state=value page="" %}"',
            'href="?state={{ value }}"',
            (f"{LISTS}::test_filters_stay_in_the_url_and_keys_search",),
        ),
    ],
    "strake/static/strake/js/search.js": [
        Mutation(
            "",
            "the slash does not move to the search field",
            "  field.focus();\n  field.select();\n",  # select() alone focuses too
            "",
            (f"{LISTS}::test_filters_stay_in_the_url_and_keys_search",),
        ),
    ],
    "strake/static/strake/js/theme.js": [
        Mutation(
            "",
            "a theme is not remembered",
            "keep(button.form.dataset.themeCookie, button.value);",
            "",
            (f"{LISTS}::test_theme_changes_at_once_and_without_javascript",),
        ),
    ],
    "strake/static/strake/js/times.js": [
        Mutation(
            "",
            "the server does not learn the browser's time zone",
            "if (named) keep",
            "if (!named) keep",
            (f"{LISTS}::test_time_zone_of_the_browser_is_used",),
        ),
    ],
    "strake/static/strake/js/forms.js": [
        Mutation(
            "",
            "a sign-in page does not say that the draft is kept",
            'signIn.searchParams.set("unsaved", "1");',
            "",
            (f"{LISTS}::test_ended_session_and_expired_form_say_that_the_draft_is_kept",),
        ),
        Mutation(
            "",
            "an error page takes the place of the form",
            "alertAbove(form, [...page",
            "document.write([...page",
            (f"{LISTS}::test_ended_session_and_expired_form_say_that_the_draft_is_kept",),
        ),
    ],
    "strake/static/strake/js/drafts.js": [
        Mutation(
            "",
            "a draft returns without a word",
            "  form.prepend(note);",
            "",
            (f"{TOKENS}::test_restored_draft_says_so_and_can_be_cleared",),
        ),
        Mutation(
            "",
            "a cleared draft returns with the next visit",
            "    sessionStorage.removeItem(name);\n    note",
            "    note",
            (f"{TOKENS}::test_restored_draft_says_so_and_can_be_cleared",),
        ),
    ],
    "strake/static/strake/js/selection.js": [
        Mutation(
            "",
            "the box in the head selects nothing",
            "for (const box of boxes) box.checked = all.checked;",
            "",
            (f"{TOKENS}::test_one_box_selects_every_token",),
        ),
    ],
    "strake/static/strake/js/menus.js": [
        Mutation(
            "",
            "Escape leaves a menu open",
            '    menu.open = false;\n    menu.querySelector("summary")',
            '    menu.querySelector("summary")',
            (f"{TOKENS}::test_menu_works_with_keys_and_is_not_clipped",),
        ),
    ],
    "strake/static/strake/css/components/tokens.css": [
        Mutation(
            "",
            "the list clips an open menu",
            ".table-wrap:has(.actions-menu[open])",
            ".table-wrap:has(.no-menu)",
            (f"{TOKENS}::test_menu_works_with_keys_and_is_not_clipped",),
        ),
    ],
    "credentials/dashboard/rejected.py": [
        Mutation(
            "",
            "Reload after a mistake sends the form again",
            "    if len(text) > MAX_LENGTH:",
            "    if text:",
            (f"{TOKENS}::test_back_after_a_mistake_sends_nothing_again",),
        ),
    ],
    "credentials/dashboard/snippets.py": [
        Mutation(
            "",
            "a snippet calls a path that the token may not call",
            "first = min(allowed_paths, ",
            "first = max(['GET /v1/other'], ",
            (f"{TOKENS}::test_limited_token_gets_a_snippet_and_a_test_that_work",),
        ),
    ],
    "templates/components/field.html": [
        Mutation(
            "",
            "a field has no accessible name",
            '    <label for="{{ field.id_for_label }}">\n',
            "    <label>\n",
            (f"{TOKENS}::test_screen_reader_reads_connect_rotate_and_delete",),
        ),
    ],
}
