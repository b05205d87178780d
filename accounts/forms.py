"""Forms of the accounts pages."""

from __future__ import annotations

from django import forms

from accounts.addresses import normalise_email
from accounts.errors import InvalidEmail


class SignInForm(forms.Form):
    """An e-mail address, and nothing else to remember."""

    email = forms.CharField(
        label="E-mail",
        max_length=254,
        widget=forms.EmailInput(attrs={"autocomplete": "email", "autofocus": True, "spellcheck": "false"}),
        error_messages={"required": "Enter your e-mail address."},
    )
    next = forms.CharField(required=False, widget=forms.HiddenInput)

    def clean_email(self) -> str:
        try:
            return normalise_email(self.cleaned_data["email"])
        except InvalidEmail as error:
            raise forms.ValidationError(str(error)) from None
