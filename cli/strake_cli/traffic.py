"""`strake usage` and `strake audit`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from strake_cli import output
from strake_cli.options import State, common, endpoint_argument


@click.command()
@endpoint_argument
@click.option("--period", type=click.Choice(["24h", "7d", "30d"]), default="24h", show_default=True)
@common
def usage(state: State, endpoint: str, period: str) -> None:
    """Show how many requests an endpoint and each of its tokens had, and how they ended."""
    found = state.api.endpoint(endpoint)
    subdomain = found["endpoint"]["subdomain"]
    bucket = "hour" if period == "24h" else "day"
    answer = state.api.call("GET", f"/endpoints/{subdomain}/usage", params={"period": period, "bucket": bucket})
    if state.json:
        output.as_json(answer)
        return
    total = answer["usage"]["total"]
    output.facts(
        {
            "Since": output.time(answer["usage"]["since"]),
            "Requests": total["requests"],
            "Succeeded": total["good"],
            "Refused (4xx)": total["refused"],
            "Failed (5xx)": total["failed"],
            "Refused by Strake": total["stopped"],
            "Latency": f"p50 {_ms(total['p50_ms'])}, p95 {_ms(total['p95_ms'])}",
        }
    )
    _by_token(answer["usage"]["buckets"], {token["id"]: token["label"] for token in found["tokens"]})


def _by_token(buckets: list[dict[str, Any]], labels: dict[str, str]) -> None:
    counts: dict[str, Counter[int]] = {}
    for bucket in buckets:
        counts.setdefault(bucket["token_id"], Counter())[bucket["status_class"]] += bucket["requests"]
    if counts:
        output.console().print()
        rows = [
            (token, labels.get(token, ""), found.total(), found[2] + found[3], found[4], found[5])
            for token, found in counts.items()
        ]
        output.table(("TOKEN", "NAME", "REQUESTS", "2xx-3xx", "4xx", "5xx"), rows)


@click.command()
@click.option("--limit", type=click.IntRange(1, 500), default=30, show_default=True, help="How many events.")
@common
def audit(state: State, limit: int) -> None:
    """Show who changed what in your account, newest first."""
    answer = state.api.call("GET", "/audit", params={"newest": "true", "limit": limit})
    if state.json:
        output.as_json(answer)
        return
    rows = [
        (output.time(event["at"]), event["action"], event["subject_label"], event["ip"] or "-", event["via"])
        for event in answer["events"]
    ]
    output.table(("AT", "ACTION", "WHAT", "FROM", "THROUGH"), rows)


def _ms(value: int | None) -> str:
    return "-" if value is None else f"{value} ms"
