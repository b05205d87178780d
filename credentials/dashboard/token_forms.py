"""The forms of a token: a new one, and changes of one that exists. Lists have one entry per line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, cast

from django import forms
from django.conf import settings
from django.utils import timezone

from accounts.errors import QuotaReached
from accounts.plain_text import validate_label
from credentials import token_limits
from credentials.dashboard.forms import NUMBER_ERRORS, numeric_input
from credentials.errors import InvalidLimit
from credentials.models import BearerToken

LIFETIMES = {
    "": "Never",
    "1": "In 1 day",
    "7": "In 7 days",
    "30": "In 30 days",
    "90": "In 90 days",
    "365": "In a year",
    "date": "On a date…",
}
KEEP = "keep"
_LISTS = ("allowed_paths", "allowed_networks", "allowed_origins")
_NUMBERS = ("requests_per_minute", "requests_per_day", "requests_per_month", "concurrent_requests")


def _number(label: str, most: int, help_text: str = "") -> forms.IntegerField:
    return forms.IntegerField(
        label=label,
        required=False,
        min_value=1,
        max_value=most,
        widget=numeric_input(),
        help_text=help_text,
        error_messages={**NUMBER_ERRORS, "max_value": f"Enter at most {most:,}, or leave it empty for no limit."},
    )


def _lines(label: str, placeholder: str, help_text: str, *, rows: int = 3, most: int = 16384) -> forms.CharField:
    attributes = {"class": "mono", "rows": rows, "spellcheck": "false", "placeholder": placeholder}
    return forms.CharField(
        label=label, required=False, max_length=most, widget=forms.Textarea(attrs=attributes), help_text=help_text
    )


class TokenForm(forms.Form):
    """A new token with its limits."""

    label = forms.CharField(
        label="Name",
        max_length=100,
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "The person or tool that will use it"}),
        validators=[validate_label],
    )
    expires = forms.ChoiceField(label="Expires", choices=list(LIFETIMES.items()), required=False)
    expires_on = forms.DateField(
        label="Date",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="The last day it works (UTC). Only for “On a date”.",
        error_messages={"invalid": "Enter a date like 2027-01-31."},
    )
    requests_per_minute = _number("Requests per minute", token_limits.MAX_REQUESTS_PER_MINUTE)
    concurrent_requests = _number("Concurrent requests", 1_000_000, "Counted separately in each server process.")
    requests_per_day = _number("Requests per day", token_limits.MAX_BUDGET, "Starts again at midnight UTC.")
    requests_per_month = _number("Requests per month", token_limits.MAX_BUDGET, "Starts again on the 1st, UTC.")
    allowed_paths = _lines(
        "Allowed paths",
        "POST /v1/chat/completions\nGET /v1/models",
        "One per line, with or without a method. * matches anything within a segment, ** across segments. Leave it "
        "empty to allow every path.",
    )
    allowed_networks = _lines(
        "Allowed networks",
        "192.0.2.0/24\n2001:db8::/48",
        "One per line. Leave it empty for tools that call from somebody else's servers, as Cursor does.",
        most=4096,
    )
    allowed_origins = _lines(
        "Allowed web pages",
        "https://app.example.com",
        "One origin per line, only for code that runs in a browser. Everybody who opens the page can read the token "
        "there. If it's empty, Strake sends no CORS headers.",
        rows=2,
    )
    allow_minting = forms.BooleanField(
        label="May create credentials",
        required=False,
        help_text=(
            "Some requests return a new credential of the provider or open a connection that bypasses Strake: client "
            "secrets and WebRTC calls for browsers, API keys. These go on working after you revoke this token, so "
            "Strake refuses such requests unless you allow them here."
        ),
    )
    parent = forms.ChoiceField(
        label="Belongs to",
        required=False,
        help_text="It ends when that token is revoked, rotated or expires. The limits of both apply.",
    )

    def __init__(
        self, data: Any = None, *, initial: dict[str, Any] | None = None, parents: Iterable[BearerToken] = ()
    ) -> None:
        """`parents` are the tokens that the new one may belong to."""
        super().__init__(data, initial=initial)
        cast(forms.IntegerField, self.fields["concurrent_requests"]).widget.attrs["placeholder"] = (
            f"Server default ({settings.STRAKE_MAX_STREAMS:,})"
        )
        choices = [(token.pk, f"{token.label} ({token.preview})") for token in parents]
        if choices:
            cast(forms.ChoiceField, self.fields["parent"]).choices = [("", "No other token"), *choices]
        else:
            del self.fields["parent"]

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if data.get("expires") == "date" and not data.get("expires_on") and "expires_on" not in self.errors:
            self.add_error("expires_on", "Choose the date.")
        return data

    def clean_allowed_paths(self) -> str:
        return self._checked("allowed_paths", lambda lines: token_limits.clean(allowed_paths=lines))

    def clean_allowed_networks(self) -> str:
        return self._checked("allowed_networks", lambda lines: token_limits.clean(allowed_networks=lines))

    def clean_allowed_origins(self) -> str:
        return self._checked("allowed_origins", lambda lines: token_limits.clean(allowed_origins=lines))

    def limits(self) -> dict[str, Any]:
        """The keyword arguments for `services.issue_token`, without the parent."""
        data = self.cleaned_data
        return {
            "label": data["label"],
            "expires_at": self._expires_at(),
            "allow_minting": data["allow_minting"],
            **{name: data[name] for name in _NUMBERS},
            **{name: data[name].splitlines() for name in _LISTS},
        }

    @property
    def parent_id(self) -> str | None:
        """The id of the token that the new one belongs to."""
        return self.cleaned_data.get("parent") or None

    def add_service_error(self, error: InvalidLimit | QuotaReached) -> None:
        """Show an error of the service next to its field, or above the form if it has no field."""
        field = error.field if isinstance(error, InvalidLimit) else None
        field = {"expires_at": "expires_on", "parent_id": "parent"}.get(field or "", field)
        self.add_error(field if field in self.fields else None, str(error))

    def _checked(self, field: str, check: Callable[[list[str]], object]) -> str:
        """Validate each line, and quote those with a mistake."""
        text: str = self.cleaned_data[field]
        lines, errors = text.splitlines(), []
        for number, line in enumerate(lines, 1):
            try:
                check([line])
            except InvalidLimit as error:
                errors.append(f"Line {number}, “{line.strip()[:80]}”: {error}")
        if errors:
            raise forms.ValidationError(errors[:5])
        try:
            check(lines)
        except InvalidLimit as error:
            raise forms.ValidationError(str(error)) from None
        return text

    def _expires_at(self) -> datetime | None:
        choice = self.cleaned_data["expires"]
        if not choice:
            return None
        if choice == "date":
            day = self.cleaned_data["expires_on"] + timedelta(days=1)
            return datetime(day.year, day.month, day.day, tzinfo=timezone.get_default_timezone())
        return timezone.now() + timedelta(days=int(choice))


class EditTokenForm(TokenForm):
    """Changes of a token. Its expiry stays unless another one is chosen."""

    def __init__(self, data: Any = None, *, token: BearerToken) -> None:
        super().__init__(data, initial=initial_of(token) | {"expires": KEEP})
        now = "never" if token.expires_at is None else f"{token.expires_at:%Y-%m-%d %H:%M} UTC"
        cast(forms.ChoiceField, self.fields["expires"]).choices = [(KEEP, f"No change ({now})"), *LIFETIMES.items()]

    def limits(self) -> dict[str, Any]:
        """The keyword arguments for `services.update_token`."""
        if self.cleaned_data["expires"] != KEEP:
            return super().limits()
        self.cleaned_data["expires"] = ""
        limits = super().limits()
        del limits["expires_at"]
        return limits


def initial_of(token: BearerToken) -> dict[str, Any]:
    """The values of a form for a token with the same limits."""
    values = {
        "label": token.label,
        "allow_minting": token.allow_minting,
        "parent": token.parent_id or "",
        **{name: getattr(token, name) for name in _NUMBERS},
        **{name: "\n".join(getattr(token, name)).replace("* /", "/") for name in _LISTS},
    }
    if token.expires_at is not None:
        last_day = (token.expires_at - timedelta(days=1)).date()
        values |= {"expires": "date", "expires_on": last_day if last_day >= timezone.now().date() else None}
    return values
