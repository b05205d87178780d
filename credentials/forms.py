"""Forms of the dashboard. A pasted key is never sent back to the browser, whatever was wrong with the form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.utils import timezone

from credentials import destinations, limits, sealing
from credentials.errors import CredentialsError, InvalidDestination, InvalidKey, KeyRefused, KeyUnchecked
from credentials.providers import SECRET_PLACEHOLDER, Provider


@dataclass
class Outcome:
    """How saving a key went. `status` is for the page that shows the form again."""

    failed: bool = False
    unchecked: bool = False
    status: int = 200


def numeric_input() -> forms.TextInput:
    """For a limit. No number field: of one that holds anything else browsers send nothing, which means no limit."""
    return forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "off", "placeholder": "No limit"})


@contextmanager
def _said_beside_the_field() -> Iterator[None]:
    try:
        yield
    except CredentialsError as error:
        raise forms.ValidationError(str(error)) from None


class ReplaceKeyForm(forms.Form):
    """A provider key, and the question whether to save it unchecked once the provider could not be asked."""

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

    # Once the provider could not be asked, the page offers to save without its answer.
    offers_unchecked = False

    def __init__(self, data: Any = None, *, provider: Provider, initial: dict[str, Any] | None = None) -> None:
        super().__init__(data, initial=initial)
        self.provider = provider
        self.fields["api_key"].label = "API key" if provider.is_custom else f"{provider.name} key"
        if provider.key_example:
            self.fields["api_key"].widget.attrs["placeholder"] = provider.key_example

    # The services check this again. Checked here as well, a form says everything that is wrong with it at once.
    def clean_api_key(self) -> str:
        with _said_beside_the_field():
            return sealing.clean_key(self.cleaned_data["api_key"])

    def key_arguments(self) -> dict[str, Any]:
        """What the services need of this form."""
        return {"api_key": self.cleaned_data["api_key"], "unchecked": self.cleaned_data["unchecked"]}

    @contextmanager
    def outcome(self) -> Iterator[Outcome]:
        """Turn what a service has against the key into messages beside the fields."""
        outcome = Outcome(unchecked=self.cleaned_data["unchecked"])
        try:
            yield outcome
        except (InvalidKey, KeyRefused) as error:
            self.add_error("api_key", str(error))
            outcome.failed, outcome.status = True, 400
        except InvalidDestination as error:
            self.add_error(error.field if error.field in self.fields else None, str(error))
            outcome.failed, outcome.status = True, 400
        except KeyUnchecked as error:
            self.add_error(None, str(error))
            self.offers_unchecked = True
            outcome.failed, outcome.status = True, 502


class DestinationForm(ReplaceKeyForm):
    """Where a custom provider is, how it wants its key, and the key itself, since the old seal is bound to the old."""

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
        help_text="The header that carries the key.",
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

    field_order: Sequence[str] = ("destination_url", "header_name", "header_template", "api_key")

    def __init__(self, data: Any = None, *, provider: Provider, initial: dict[str, Any] | None = None) -> None:
        super().__init__(data, provider=provider, initial=initial)
        if not provider.is_custom:
            del self.fields["header_name"], self.fields["header_template"]
        if not provider.needs_destination:
            del self.fields["destination_url"]
        elif provider.slug == "azure-openai":
            self.fields["destination_url"].widget.attrs["placeholder"] = "https://your-resource.openai.azure.com"

    def clean_destination_url(self) -> str:
        url: str = self.cleaned_data["destination_url"]
        with _said_beside_the_field():
            destinations.check(url)
        return url

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if {"header_name", "header_template"} <= data.keys():
            name = data["header_name"] or self.provider.header_name
            template = data["header_template"] or self.provider.header_template
            try:
                destinations.check_header(name, template)
            except InvalidDestination as error:
                self.add_error(error.field, str(error))
        return data

    def key_arguments(self) -> dict[str, Any]:
        names = {"destination_url", "header_name", "header_template"} & self.cleaned_data.keys()
        return super().key_arguments() | {name: self.cleaned_data[name] for name in names}


class KeyForm(DestinationForm):
    """Everything to connect a provider."""

    label = forms.CharField(
        label="Name",
        max_length=100,
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "CI, laptop, …"}),
        help_text="Where you will use it. Only for you, to tell endpoints apart.",
    )

    field_order = ("destination_url", "header_name", "header_template", "api_key", "label")


class LabelForm(forms.Form):
    label = forms.CharField(
        label="Name", max_length=100, error_messages={"required": "Give the endpoint a name."}, widget=forms.TextInput
    )


class LimitsForm(forms.Form):
    """What an endpoint as a whole may do."""

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
        most: int | None = self.cleaned_data["max_streams"]
        with _said_beside_the_field():
            limits.check_max_streams(most)
        return most


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
    """A new token with its limits. Lists are one entry per line."""

    label = forms.CharField(
        label="Name",
        max_length=100,
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "Who or what will use it"}),
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
        max_value=limits.MAX_REQUESTS_PER_MINUTE,
        widget=numeric_input(),
        error_messages={
            "invalid": "Enter a whole number, or leave it empty for no limit.",
            "min_value": "The least is 1. Leave it empty for no limit, or pause the endpoint to let nothing through.",
            "max_value": f"The most is {limits.MAX_REQUESTS_PER_MINUTE:,}. Leave it empty for no limit.",
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

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if data.get("expires") == "date" and not data.get("expires_on") and "expires_on" not in self.errors:
            self.add_error("expires_on", "Choose the date.")
        return data

    def clean_allowed_paths(self) -> str:
        text: str = self.cleaned_data["allowed_paths"]
        with _said_beside_the_field():
            limits.clean(allowed_paths=text.splitlines())
        return text

    def clean_allowed_networks(self) -> str:
        text: str = self.cleaned_data["allowed_networks"]
        with _said_beside_the_field():
            limits.clean(allowed_networks=text.splitlines())
        return text

    def limits(self) -> dict[str, Any]:
        """The keyword arguments of `services.issue_token`."""
        data = self.cleaned_data
        return {
            "label": data["label"],
            "expires_at": self._expires_at(),
            "requests_per_minute": data["requests_per_minute"],
            "allowed_paths": data["allowed_paths"].splitlines(),
            "allowed_networks": data["allowed_networks"].splitlines(),
        }

    def field_of(self, limit: str) -> str:
        """The field on which an `InvalidLimit` of this name belongs."""
        return "expires_on" if limit == "expires_at" else limit

    def _expires_at(self) -> datetime | None:
        choice = self.cleaned_data["expires"]
        if not choice:
            return None
        if choice == "date":
            day = self.cleaned_data["expires_on"] + timedelta(days=1)
            return datetime(day.year, day.month, day.day, tzinfo=timezone.get_default_timezone())
        return timezone.now() + timedelta(days=int(choice))
