"""Every query of the dashboard, of the alerts and of the documents names metrics and labels that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import yaml
from django.conf import settings

from accounts.metrics import Metric, registry
from accounts.notices import publishing
from accounts.sign_in import metrics as sign_in
from credentials.webhooks import delivery
from proxy.metrics import database_pool, gauges, traffic
from strake.metrics import process, publisher, web

ROOT: Path = settings.ROOT
OPERATIONS = (ROOT / "docs/operations.md").read_text()
MODULES = (sign_in, publishing, delivery, database_pool, gauges, traffic, process, publisher, web)
METRICS = {value.name: value for module in MODULES for value in vars(module).values() if isinstance(value, Metric)}
# What Prometheus adds, and what prometheus-client makes in the exporter.
FROM_PROMETHEUS = {"instance", "job"}
OTHERS = {"up": set[str](), "strake_build_info": {"version"}}


def labels_of(name: str) -> set[str]:
    """Return the labels of a series. Raises `KeyError` if there is none of this name."""
    if name in OTHERS:
        return OTHERS[name] | FROM_PROMETHEUS
    metric = METRICS.get(name)
    if metric is not None and metric.kind != "histogram":
        return set(metric.labels) | FROM_PROMETHEUS
    base, part = re.fullmatch(r"(\w+)_(bucket|sum|count)", name).groups()  # type: ignore[union-attr]
    assert METRICS[base].kind == "histogram"
    return {*METRICS[base].labels, *FROM_PROMETHEUS, *(["le"] if part == "bucket" else [])}


def check(query: str) -> None:
    """Raises if a query is not PromQL, or if a metric or one of its labels does not exist."""
    tree = promql_parser.parse(re.sub(r"\$__rate_interval", "5m", query))
    names = re.findall(r"\b((?:strake|process)_\w+|up)\b(?!\()", re.sub(r'"[^"]*"', '""', query))
    assert names, query
    for selector in selectors(tree):
        known = labels_of(str(selector.name))
        assert {matcher.name for matcher in selector.matchers.matchers} <= known, query
    grouped = {
        label
        for group in re.findall(r"\b(?:by|on|ignoring|without|group_left|group_right) ?\(([^)]*)\)", query)
        for label in re.split(r",\s*", group)
        if label
    }
    assert grouped <= set().union(*(labels_of(name) for name in names)), query


def selectors(node: object) -> Iterator[promql_parser.VectorSelector]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    for name in ("expr", "lhs", "rhs", "vector_selector", "args"):
        child = getattr(node, name, None)
        for one in child if isinstance(child, list) else [child]:
            if one is not None:
                yield from selectors(one)


def panels() -> list[tuple[str, str]]:
    dashboard = json.loads((ROOT / "contrib/grafana/strake.json").read_text())
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]


def alerts() -> list[dict[str, object]]:
    groups = yaml.safe_load((ROOT / "contrib/prometheus/alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_list_of_metrics_is_complete() -> None:
    assert {name for name in registry if name.startswith(("strake_", "process_"))} == set(METRICS)


def test_queries_of_the_dashboard_are_right() -> None:
    for _, query in panels():
        check(query)


def test_alerts_are_right() -> None:
    for rule in alerts():
        check(str(rule["expr"]))
        used = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert used <= set().union(*(METRICS[name].labels for name in METRICS)) | FROM_PROMETHEUS
        assert set(rule["annotations"]) == {"summary", "action"}  # type: ignore[call-overload]


@pytest.mark.parametrize("query", ["rate(strake_requests_total{path='x'}[5m])", "strake_nothing", "sum by (le) (up)"])
def test_wrong_queries_are_noticed(query: str) -> None:
    with pytest.raises((AssertionError, AttributeError, KeyError)):
        check(query)


def test_documents_list_every_panel_and_alert() -> None:
    for title, query in panels():
        short = query.replace('instance=~"$instance", ', "").replace('{instance=~"$instance"}', "")
        short = short.replace("$__rate_interval", "5m").replace("|", r"\|")
        assert f"| {title} | `{short}` |" in OPERATIONS
    for rule in alerts():
        assert f"`{rule['alert']}`" in OPERATIONS


# --- Questions -----------------------------------------------------------------------------------------------------


def answers() -> list[str]:
    section = OPERATIONS.split("\n### Questions, and where the answer is\n")[1].split("\n## ")[0].split("\n### ")[0]
    return re.findall(r"^\| .+\? \| (.+) \|$", section, flags=re.MULTILINE)


def test_answers_name_what_exists() -> None:
    code = "\n".join(
        path.read_text()
        for package in ("accounts", "credentials", "proxy", "strake")
        for path in (ROOT / package).rglob("*.py")
    )
    sources = [ROOT / "templates/strake/health.html", *(ROOT / "strake/health").glob("*.py")]
    page = "\n".join(path.read_text() for path in sources)
    assert len(answers()) >= 15
    for answer in answers():
        metrics = re.findall(r"metric `([^`]+)`", answer)
        for query in metrics:
            check(query)
        lines = re.findall(r"log line `(\w+)`", answer)
        for line in lines:
            assert re.search(rf"[\"']{line}[ :\"']", code) or f"{line}" in KNOWN_BY_FORMAT, line
        fields = re.findall(r"health page, “([^”]+)”", answer)
        for field in fields:
            assert field in page, field
        assert metrics or lines or fields or "activity page" in answer, answer


# `CircuitBreaker` puts the name of the service in front.
KNOWN_BY_FORMAT = {"store_unavailable", "store_back"}
