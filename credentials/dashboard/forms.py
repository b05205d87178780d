"""Forms of the dashboard. They never send a pasted key back to the browser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from django import forms
from django.conf import settings
from django.utils import timezone

from accounts.errors import AccountsError, QuotaReached, ServerBusy, TooManyRequests
from accounts.models import User
from accounts.plain_text import validate_label
from credentials import destinations, places, token_limits
from credentials.errors import (
    CredentialsError,
    InvalidDestination,
    InvalidKey,
    InvalidLimit,
    KeyRefused,
    KeyUnchecked,
    VaultUnavailable,
)
from credentials.providers import SECRET_BASE64_PLACEHOLDER, SECRET_PLACEHOLDER, Provider
from credentials.vault.provider_key import ProviderKey

# Errors of the services that `ReplaceKeyForm.add_service_error` can show.
KEY_ERRORS = (
    InvalidKey,
    InvalidDestination,
    KeyRefused,
    KeyUnchecked,
    VaultUnavailable,
    QuotaReached,
    TooManyRequests,
    ServerBusy,
)


def numeric_input() -> forms.TextInput:
    """The input for a limit.

    Not a number input: browsers send "" for a number input that holds other text, and "" means no limit.
    """
    return forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "off", "placeholder": "No limit"})


@contextmanager
def _as_validation_error() -> Iterator[None]:
    """Turn an error of a service into one that Django shows next to the field."""
    try:
        yield
    except CredentialsError as error:
        raise forms.ValidationError(str(error)) from None


class ReplaceKeyForm(forms.Form):
    """A provider key. If the provider could not be reached, the form offers to save the key unchecked."""

    api_key = forms.CharField(
        label="API key",
        max_length=8192,
        strip=False,
        widget=forms.PasswordInput(
            render_value=False,
            attrs={
                "class": "mono",
                "autocomplete": "off",
                "autocapitalize": "none",
                "spellcheck": "false",
                "data-secret": "",
                "data-1p-ignore": "",
                "data-lpignore": "true",
                "data-bwignore": "",
            },
        ),
        error_messages={"required": "Paste the key.", "max_length": "That is too long for a key."},
    )
    unchecked = forms.BooleanField(required=False, label="Save it without checking", widget=forms.HiddenInput)

    offers_unchecked = False
    is_unavailable = False
    is_over_quota = False
    retry_after = 0  # seconds, if trying again later will help

    def __init__(self, data: Any = None, *, provider: Provider, initial: dict[str, Any] | None = None) -> None:
        super().__init__(data, initial=initial)
        self.provider = provider
        self.fields["api_key"].label = "API key" if provider.is_custom else f"{provider.name} key"
        if provider.key_example:
            self.fields["api_key"].widget.attrs["placeholder"] = provider.key_example

    # Cleaned here and not by the service, so that a form shows all of its errors at once.
    def clean_api_key(self) -> ProviderKey:
        with _as_validation_error():
            return ProviderKey(self.cleaned_data["api_key"])

    def key_arguments(self) -> dict[str, Any]:
        """The keyword arguments for a service that takes a key."""
        return {"api_key": self.cleaned_data["api_key"], "unchecked": self.cleaned_data["unchecked"]}

    def add_service_error(self, error: CredentialsError | AccountsError) -> None:
        """Show one of `KEY_ERRORS` next to its field, or above the form if it has no field."""
        field = None
        if isinstance(error, InvalidKey | KeyRefused):
            field = "api_key"
        elif isinstance(error, InvalidDestination) and error.field in self.fields:
            field = error.field
        self.offers_unchecked = isinstance(error, KeyUnchecked)
        self.is_unavailable = isinstance(error, VaultUnavailable | ServerBusy)
        self.is_over_quota = isinstance(error, QuotaReached)
        if isinstance(error, TooManyRequests | ServerBusy):
            self.retry_after = error.retry_after
        self.add_error(field, str(error))

    @property
    def status(self) -> HTTPStatus:
        """The status for a page with this form."""
        if self.offers_unchecked:
            return HTTPStatus.BAD_GATEWAY
        if self.is_unavailable:
            return HTTPStatus.SERVICE_UNAVAILABLE
        if self.retry_after:
            return HTTPStatus.TOO_MANY_REQUESTS
        if self.is_over_quota:
            return HTTPStatus.FORBIDDEN
        return HTTPStatus.BAD_REQUEST if self.errors else HTTPStatus.OK


class DestinationForm(ReplaceKeyForm):
    """The destination of an endpoint, with the key: the existing ciphertext is bound to the old destination."""

    destination_url = forms.CharField(
        label="Address of the API",
        max_length=512,
        widget=forms.URLInput(
            attrs={"class": "mono", "placeholder": "https://api.example.com", "autocomplete": "off", "inputmode": "url"}
        ),
        help_text="Without the part that your tools add, like /v1/chat/completions.",
        error_messages={"required": "Enter the address of the API, like https://api.example.com"},
    )
    header_name = forms.CharField(
        label="Header",
        max_length=64,
        required=False,
        widget=forms.TextInput(attrs={"class": "mono", "placeholder": "Authorization", "autocomplete": "off"}),
        help_text="The header that carries the key. Leave it empty if only the query does.",
    )
    header_template = forms.CharField(
        label="Value of the header",
        max_length=256,
        required=False,
        widget=forms.TextInput(
            attrs={"class": "mono", "placeholder": f"Bearer {SECRET_PLACEHOLDER}", "autocomplete": "off"}
        ),
        help_text=f"{SECRET_PLACEHOLDER} stands for the key.",
    )
    places = forms.CharField(
        label="More headers and query parameters",
        max_length=4096,
        required=False,
        widget=forms.Textarea(
            attrs={
                "class": "mono",
                "rows": 3,
                "spellcheck": "false",
                "autocapitalize": "none",
                "placeholder": f"X-Organization: acme\n?api_key={SECRET_PLACEHOLDER}",
            }
        ),
        help_text=(
            f"One per line, up to {places.MAX_PLACES}. {SECRET_PLACEHOLDER} stands for the key, and "
            f"{SECRET_BASE64_PLACEHOLDER} for its Base64 form: Basic {SECRET_BASE64_PLACEHOLDER} with a key like "
            "user:password. Other values are stored as they are, and you can see them here again."
        ),
    )

    field_order: Sequence[str] = ("destination_url", "header_name", "header_template", "places", "api_key")

    def __init__(
        self, data: Any = None, *, provider: Provider, owner: User, initial: dict[str, Any] | None = None
    ) -> None:
        super().__init__(data, provider=provider, initial=initial)
        self.owner = owner
        if not provider.is_custom:
            del self.fields["header_name"], self.fields["header_template"], self.fields["places"]
        if provider.choices:
            self.fields["destination_url"] = forms.ChoiceField(
                label=provider.choice_label,
                choices=[(choice.url, choice.label) for choice in provider.choices],
                error_messages={"required": "Choose one.", "invalid_choice": "Choose one of the list."},
            )
            self.order_fields(self.field_order)
        elif not provider.needs_destination:
            del self.fields["destination_url"]
        else:
            field = self.fields["destination_url"]
            field.widget.attrs["placeholder"] = provider.destination_example
            field.error_messages["required"] = f"Enter the address of the API, like {provider.destination_example}"

    def clean_destination_url(self) -> str:
        url: str = self.cleaned_data["destination_url"]
        if self.provider.choices:
            return url
        with _as_validation_error():
            destinations.check(
                url, owner_id=self.owner.pk, owner_email=self.owner.email, resolve=False
            )  # the service looks the name up, within its limits
        return url

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if {"header_name", "header_template", "places"} <= data.keys():
            try:
                further = places.parse(data["places"].splitlines())
                header = places.with_default_header(
                    self.provider, data["header_name"], data["header_template"], further
                )
                places.check(*header, further)
            except InvalidDestination as error:
                self.add_error(error.field, str(error))
        return data

    def key_arguments(self) -> dict[str, Any]:
        names = {"destination_url", "header_name", "header_template"} & self.cleaned_data.keys()
        arguments = super().key_arguments() | {name: self.cleaned_data[name] for name in names}
        if "places" in self.fields:
            arguments["places"] = places.parse(self.cleaned_data["places"].splitlines())
        return arguments


class KeyForm(DestinationForm):
    """All fields to connect a provider."""

    label = forms.CharField(
        label="Name",
        max_length=100,
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "CI, laptop, …"}),
        validators=[validate_label],
        help_text="Where you will use it. Only for you, to tell endpoints apart.",
    )

    field_order = ("destination_url", "header_name", "header_template", "places", "api_key", "label")


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
        with _as_validation_error():
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
        text: str = self.cleaned_data["allowed_paths"]
        with _as_validation_error():
            token_limits.clean(allowed_paths=text.splitlines())
        return text

    def clean_allowed_networks(self) -> str:
        text: str = self.cleaned_data["allowed_networks"]
        with _as_validation_error():
            token_limits.clean(allowed_networks=text.splitlines())
        return text

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
        }

    def add_service_error(self, error: InvalidLimit | QuotaReached) -> None:
        """Show an error of the service next to its field, or above the form if it has no field."""
        field = error.field if isinstance(error, InvalidLimit) else None
        self.add_error("expires_on" if field == "expires_at" else field, str(error))

    def _expires_at(self) -> datetime | None:
        choice = self.cleaned_data["expires"]
        if not choice:
            return None
        if choice == "date":
            day = self.cleaned_data["expires_on"] + timedelta(days=1)
            return datetime(day.year, day.month, day.day, tzinfo=timezone.get_default_timezone())
        return timezone.now() + timedelta(days=int(choice))
