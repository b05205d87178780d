"""What is counted about signing in."""

from __future__ import annotations

from accounts.metrics import Counter

REFUSALS = Counter(
    "strake_sign_in_refusals_total", "Requests to sign in that were refused: too many, or an invalid link.", ["reason"]
)
