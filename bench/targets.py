"""What Strake holds itself to, beside what this run measured."""

from __future__ import annotations

import math

from bench.tables import Results, shown, table


def table_of(results: Results) -> list[str]:
    """One row for each bound that this run has measured."""
    rows = []
    for text, value, bound, least in _bounds(results):
        if not math.isnan(value):
            kept = value >= bound if least else value <= bound
            rows.append([text, f"{'≥' if least else '≤'} {bound:g}", shown(value, 2), "yes" if kept else "no"])
    return ["## Bounds", "", *table(["", "bound", "measured", "kept"], rows)] if rows else []


def _bounds(results: Results) -> list[tuple[str, float, float, bool]]:
    """Text, measured value, bound, and whether the value must reach the bound rather than stay below it."""
    ratio = results.ratio
    rows = [
        (f"requests/s at 32 connections, {strake} / {peer}", ratio(strake, peer, "rps 32"), bound, True)
        for strake, peer, bound in (
            ("strake", "portkey", 10.0),
            ("strake", "litellm", 80.0),
            ("strake-pg", "portkey", 8.0),
            ("strake-pg", "litellm", 60.0),
        )
    ]
    rows.append(("added p50, strake / portkey", ratio("strake", "portkey", "added p50 1"), 0.22, False))
    own = results.median("strake", "tail added p99") / results.median("strake", "tail added p50")
    rows.append(("strake's added p99 / added p50", own, 3.0, False))
    for figure in results.figures("strake"):
        name, separator, kind = figure.rpartition(": ")
        match separator and kind:  # figures of short requests have no name before them
            case "broken":
                rows.append((f"{name}: broken", results.worst("strake", figure), 0.0, False))
            case "memory":
                rows.append((f"{name}: KB each", results.median("strake", figure), 40.0, False))
            case "cpu":
                rows.append((f"{name}: CPU per event, strake / nginx", ratio("strake", "nginx", figure), 1.3, False))
    rates = [f"{direction} rate" for direction in ("download", "upload")]
    return rows + [(f"{rate}, strake / nginx", ratio("strake", "nginx", rate), 0.8, True) for rate in rates]
