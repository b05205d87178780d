"""Forms with a provider key. They never send a pasted key back to the browser."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, cast

from django import forms

from accounts.errors import AccountsError, QuotaReached, ServerBusy, TooManyRequests
from accounts.models import User
from accounts.plain_text import validate_label
from credentials import cloud_tokens, destinations, places
from credentials.dashboard.forms import as_validation_error
from credentials.errors import (
    CredentialsError,
    InvalidDestination,
    InvalidKey,
    KeyRefused,
    KeyUnchecked,
    VaultUnavailable,
)
from credentials.models import Credential
from credentials.providers import BASE64_PLACEHOLDER, SECRET_PLACEHOLDER, STATIC, Provider

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


_KINDS = {
    "static": "API key",
    "azure_entra": "Client secret of an Entra ID application",
    "google_service_account": "Key file of a service account (JSON)",
}
_KEY_LABELS = {"azure_entra": "Client secret", "google_service_account": "Key file of the service account (JSON)"}


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
        error_messages={"required": "Paste the key.", "max_length": "That's too long for a key."},
    )
    unchecked = forms.BooleanField(required=False, label="Save without checking", widget=forms.HiddenInput)

    offers_unchecked = False
    is_unavailable = False
    is_over_quota = False
    retry_after = 0  # seconds, if trying again later will help

    def __init__(
        self,
        data: Any = None,
        *,
        provider: Provider,
        initial: dict[str, Any] | None = None,
        stored: Credential | None = None,
    ) -> None:
        """`stored` is the credential whose key is replaced. The new one is of the same kind."""
        super().__init__(data, initial=initial)
        self.provider = provider
        self.chosen_kind = STATIC if stored is None else stored.kind
        self.parameters = {} if stored is None else stored.parameters
        own = "API key" if provider.is_custom else f"{provider.name} key"
        self.fields["api_key"].label = _KEY_LABELS.get(self.chosen_kind, own)
        if provider.key_example:
            self.fields["api_key"].widget.attrs["placeholder"] = provider.key_example

    # Cleaned here and not by the service, so that a form shows all of its errors at once.
    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if "api_key" not in data:
            return data
        try:
            cloud_tokens.secret_of(self.chosen_kind, data["api_key"], **self.entra_ids())
        except InvalidKey as error:
            self.add_error(error.field if error.field in self.fields else "api_key", str(error))
        return data

    def entra_ids(self) -> dict[str, str]:
        """The ids of an Entra ID application, which belong to its secret."""
        return {name: self.parameters.get(name, "") for name in ("tenant", "client_id")}

    def key_arguments(self) -> dict[str, Any]:
        """The keyword arguments for a service that takes a key."""
        return {"api_key": self.cleaned_data["api_key"], "unchecked": self.cleaned_data["unchecked"]}

    def add_service_error(self, error: CredentialsError | AccountsError) -> None:
        """Show one of `KEY_ERRORS` next to its field, or above the form if it has no field."""
        field = None
        if isinstance(error, InvalidKey):
            field = error.field if error.field in self.fields else "api_key"
        elif isinstance(error, KeyRefused):
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
        label="API URL",
        max_length=512,
        widget=forms.URLInput(
            attrs={"class": "mono", "placeholder": "https://api.example.com", "autocomplete": "off", "inputmode": "url"}
        ),
        help_text="Without the path that your tools add, like /v1/chat/completions.",
        error_messages={"required": "Enter the URL of the API, like https://api.example.com"},
    )
    header_name = forms.CharField(
        label="Header",
        max_length=64,
        required=False,
        widget=forms.TextInput(attrs={"class": "mono", "placeholder": "Authorization", "autocomplete": "off"}),
        help_text="The header for the key. Leave it empty if the key goes only into the query.",
    )
    header_template = forms.CharField(
        label="Header value",
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
                "data-undrafted": "",  # a constant value may be secret
                "placeholder": f"X-Organization: acme\n?api_key={SECRET_PLACEHOLDER}",
            }
        ),
        help_text=(
            f"One per line, up to {places.MAX_PLACES}: Name: value for a header, ?name=value for the query. "
            f"{SECRET_PLACEHOLDER} stands for the key, and {BASE64_PLACEHOLDER} for its Base64 form, as in "
            f"Authorization: Basic {BASE64_PLACEHOLDER} for a key like user:password. Values without the key are not "
            "encrypted, and this form shows them again."
        ),
    )

    field_order: Sequence[str] = ("destination_url", "header_name", "header_template", "places", "api_key")

    def __init__(
        self,
        data: Any = None,
        *,
        provider: Provider,
        owner: User,
        initial: dict[str, Any] | None = None,
        stored: Credential | None = None,
    ) -> None:
        super().__init__(data, provider=provider, initial=initial, stored=stored)
        self.owner = owner
        if not provider.is_custom:
            del self.fields["header_name"], self.fields["header_template"], self.fields["places"]
        if provider.choices:
            self.fields["destination_url"] = forms.ChoiceField(
                label=provider.choice_label,
                choices=[(choice.url, choice.label) for choice in provider.choices],
                error_messages={"required": "Choose one.", "invalid_choice": "Choose one from the list."},
            )
            self.order_fields(self.field_order)
        elif not provider.needs_destination:
            del self.fields["destination_url"]
        else:
            field = self.fields["destination_url"]
            field.widget.attrs["placeholder"] = provider.destination_example
            field.error_messages["required"] = f"Enter the URL of the API, like {provider.destination_example}"

    def clean_destination_url(self) -> str:
        url: str = self.cleaned_data["destination_url"]
        if self.provider.choices:
            return url
        with as_validation_error():
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
        help_text="Where you'll use it, so that you can tell your endpoints apart.",
    )

    field_order = (
        *("destination_url", "header_name", "header_template", "places"),
        *("kind", "tenant", "client_id", "api_key", "label"),
    )

    kind = forms.ChoiceField(label="Kind of key", choices=list(_KINDS.items()))
    tenant = forms.CharField(
        label="Directory (tenant) ID",
        max_length=253,
        required=False,
        widget=forms.TextInput(attrs={"class": "mono", "autocomplete": "off", "spellcheck": "false"}),
        help_text="For a client secret. It's on the application's overview page in Entra.",
    )
    client_id = forms.CharField(
        label="Application (client) ID",
        max_length=36,
        required=False,
        widget=forms.TextInput(attrs={"class": "mono", "autocomplete": "off", "spellcheck": "false"}),
        help_text="For a client secret. It's on the same page.",
    )

    def __init__(self, data: Any = None, *, provider: Provider, owner: User) -> None:
        super().__init__(data, provider=provider, owner=owner)
        cast(forms.ChoiceField, self.fields["kind"]).choices = [(kind, _KINDS[kind]) for kind in provider.kinds]
        if "azure_entra" not in provider.kinds:
            del self.fields["tenant"], self.fields["client_id"]
        if len(provider.kinds) == 1:
            del self.fields["kind"]
        else:
            self.fields["api_key"].label = "Key"

    def clean(self) -> dict[str, Any]:
        self.chosen_kind = self.cleaned_data.get("kind", STATIC)
        return super().clean()

    def entra_ids(self) -> dict[str, str]:
        return {name: self.cleaned_data.get(name, "") for name in ("tenant", "client_id")}

    def key_arguments(self) -> dict[str, Any]:
        return super().key_arguments() | self.entra_ids() | {"kind": self.chosen_kind}
