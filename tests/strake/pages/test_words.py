"""The pages speak like a product: with contractions, and of email."""

from __future__ import annotations

import re

from tests.support.running import ROOT

STIFF = re.compile(r"\be-mail|\bcannot\b|\b(?:do|does|did|is|are|was|has|have|could|will) not\b", re.IGNORECASE)


def test_templates_have_no_stiff_words() -> None:
    found = {}
    for path in (ROOT / "templates").rglob("*.*"):
        if path.name != "security.html":  # it states promises
            visible = re.sub(r"{#.*?#}|{%.*?%}|{{.*?}}", " ", path.read_text(), flags=re.DOTALL)
            found[str(path)] = STIFF.findall(visible)
    assert len(found) > 100
    assert {path: words for path, words in found.items() if words} == {}
