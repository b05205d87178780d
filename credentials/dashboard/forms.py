"""Forms of endpoints without a provider key, and what all forms share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django import forms
from django.conf import settings

from accounts.plain_text import validate_label
from credentials import token_limits
from credentials.errors import CredentialsError


def numeric_input() -> forms.TextInput:
    """The input for a limit.

    Not a number input: browsers send "" for a number input that holds other text, and "" means no limit.
    """
    return forms.TextInput(attrs={"inputmode": "numeric", "autocomplete": "off", "placeholder": "No limit"})


NUMBER_ERRORS = {
    "invalid": "Enter a whole number, or leave it empty for no limit.",
    "min_value": "Enter 1 or more. Leave it empty for no limit, or pause the endpoint to refuse every request.",
}


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
        error_messages={"required": "Enter a name."},
        widget=forms.TextInput,
        validators=[validate_label],
    )


class LimitsForm(forms.Form):
    """The limits of an endpoint as a whole."""

    max_streams = forms.IntegerField(
        label="Concurrent requests",
        required=False,
        min_value=1,
        widget=numeric_input(),
        error_messages=NUMBER_ERRORS,
    )

    def __init__(self, data: Any = None, *, initial: dict[str, Any] | None = None) -> None:
        super().__init__(data, initial=initial)
        self.fields["max_streams"].help_text = (
            "Each server process counts separately. Leave it empty to use the server default "
            f"({settings.STRAKE_MAX_STREAMS:,})."
        )

    def clean_max_streams(self) -> int | None:
        limit: int | None = self.cleaned_data["max_streams"]
        with as_validation_error():
            token_limits.check_max_streams(limit)
        return limit


class ConfirmationForm(forms.Form):
    """Type the subdomain to confirm what can't be undone."""

    confirmation = forms.CharField(
        label="Subdomain",
        max_length=100,
        widget=forms.TextInput(
            attrs={"class": "mono", "autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}
        ),
        error_messages={"required": "Type the subdomain to confirm."},
    )
