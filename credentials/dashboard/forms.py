"""Forms of the dashboard, except those with a provider key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.utils import timezone

from accounts.errors import QuotaReached
from accounts.plain_text import validate_label
from credentials import token_limits
from credentials.errors import CredentialsError, InvalidLimit


def numeric_input() -> forms.TextInput:
    """The input for a limit.

    Not a number input: browsers send "" for a number input that holds other text, and "" means no limit.
    """
    return forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "off", "placeholder": "No limit"})


@contextmanager
def as_validation_error() -> Iterator[None]:
    """Turn an error of a service into one that Django shows next to the field."""
    try:
        yield
    except CredentialsError as error:
        raise forms.ValidationError(str(error)) from None


class LabelForm(forms.Form):
    label = forms.CharField(
        label="Name",
        max_length=100,
        error_messages={"required": "Give the endpoint a name."},
        widget=forms.TextInput,
        validators=[validate_label],
    )


class LimitsForm(forms.Form):
    """The limits of an endpoint as a whole."""

    max_streams = forms.IntegerField(
        label="Requests at a time",
        required=False,
        min_value=1,
        widget=numeric_input(),
        error_messages={
            "invalid": "Enter a whole number, or leave it empty for no limit.",
            "min_value": "The least is 1. Leave it empty for no limit, or pause the endpoint to let nothing through.",
        },
    )

    def __init__(self, data: Any = None, *, initial: dict[str, Any] | None = None) -> None:
        super().__init__(data, initial=initial)
        self.fields["max_streams"].help_text = (
            "Each server process counts by itself: where several run, so many may be under way in each. If you leave "
            f"it empty, this installation's limit of {settings.STRAKE_MAX_STREAMS:,} counts alone."
        )

    def clean_max_streams(self) -> int | None:
        limit: int | None = self.cleaned_data["max_streams"]
        with as_validation_error():
            token_limits.check_max_streams(limit)
        return limit


class DeleteForm(forms.Form):
    confirmation = forms.CharField(
        label="Subdomain",
        max_length=100,
        widget=forms.TextInput(
            attrs={"class": "mono", "autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}
        ),
        error_messages={"required": "Type the subdomain to confirm."},
    )


LIFETIMES = {
    "": "Never",
    "1": "in 1 day",
    "7": "in 7 days",
    "30": "in 30 days",
    "90": "in 90 days",
    "365": "in a year",
    "date": "on a date…",
}


class TokenForm(forms.Form):
    """A new token with its limits. Lists have one entry per line."""

    label = forms.CharField(
        label="Name",
        max_length=100,
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "Who or what will use it"}),
        validators=[validate_label],
    )
    expires = forms.ChoiceField(label="Expires", choices=list(LIFETIMES.items()), required=False)
    expires_on = forms.DateField(
        label="Date",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="The last day on which it works (UTC). Only for “on a date”.",
        error_messages={"invalid": "Enter a date like 2027-01-31."},
    )
    requests_per_minute = forms.IntegerField(
        label="Requests per minute",
        required=False,
        min_value=1,
        max_value=token_limits.MAX_REQUESTS_PER_MINUTE,
        widget=numeric_input(),
        error_messages={
            "invalid": "Enter a whole number, or leave it empty for no limit.",
            "min_value": "The least is 1. Leave it empty for no limit, or pause the endpoint to let nothing through.",
            "max_value": f"The most is {token_limits.MAX_REQUESTS_PER_MINUTE:,}. Leave it empty for no limit.",
        },
    )
    allowed_paths = forms.CharField(
        label="Only these paths",
        required=False,
        max_length=16384,
        widget=forms.Textarea(
            attrs={
                "class": "mono",
                "rows": 3,
                "spellcheck": "false",
                "placeholder": "POST /v1/chat/completions\nGET /v1/models",
            }
        ),
        help_text="One per line, with or without a method. * stands for anything within a segment, ** across segments.",
    )
    allowed_networks = forms.CharField(
        label="Only from these networks",
        required=False,
        max_length=4096,
        widget=forms.Textarea(
            attrs={"class": "mono", "rows": 3, "spellcheck": "false", "placeholder": "192.0.2.0/24\n2001:db8::/48"}
        ),
        help_text="One per line. Leave empty for tools that call from somebody else's servers, as Cursor does.",
    )
    allowed_origins = forms.CharField(
        label="Web pages that may use it",
        required=False,
        max_length=16384,
        widget=forms.Textarea(
            attrs={"class": "mono", "rows": 2, "spellcheck": "false", "placeholder": "https://app.example.com"}
        ),
        help_text=(
            "One origin per line. Only for code that runs in a browser: everybody who opens the page can read the "
            "token there. Empty: Strake sends no CORS headers."
        ),
    )
    allow_minting = forms.BooleanField(
        label="May create credentials",
        required=False,
        help_text=(
            "Some calls return a new credential of the provider or open a connection past Strake: client secrets and "
            "WebRTC calls for browsers, API keys. These go on working after you revoke this token, so Strake refuses "
            "such calls unless you allow them here."
        ),
    )

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
        """The keyword arguments for `services.issue_token`."""
        data = self.cleaned_data
        return {
            "label": data["label"],
            "expires_at": self._expires_at(),
            "requests_per_minute": data["requests_per_minute"],
            "allowed_paths": data["allowed_paths"].splitlines(),
            "allowed_networks": data["allowed_networks"].splitlines(),
            "allow_minting": data["allow_minting"],
            "allowed_origins": data["allowed_origins"].splitlines(),
        }

    def add_service_error(self, error: InvalidLimit | QuotaReached) -> None:
        """Show an error of the service next to its field, or above the form if it has no field."""
        field = error.field if isinstance(error, InvalidLimit) else None
        self.add_error("expires_on" if field == "expires_at" else field, str(error))

    def _checked(self, field: str, check: Callable[[list[str]], object]) -> str:
        text: str = self.cleaned_data[field]
        with as_validation_error():
            check(text.splitlines())
        return text

    def _expires_at(self) -> datetime | None:
        choice = self.cleaned_data["expires"]
        if not choice:
            return None
        if choice == "date":
            day = self.cleaned_data["expires_on"] + timedelta(days=1)
            return datetime(day.year, day.month, day.day, tzinfo=timezone.get_default_timezone())
        return timezone.now() + timedelta(days=int(choice))
