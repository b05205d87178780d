"""The sign-in form."""

from __future__ import annotations

from django import forms

from accounts.addresses import normalise_email
from accounts.errors import InvalidEmail


class SignInForm(forms.Form):
    email = forms.CharField(
        label="Email",
        max_length=254,
        widget=forms.EmailInput(attrs={"autocomplete": "email", "autofocus": True, "spellcheck": "false"}),
        error_messages={
            "required": "Enter your email address.",
            "max_length": "An email address has at most 254 characters.",
        },
    )
    next = forms.CharField(required=False, widget=forms.HiddenInput)

    def clean_email(self) -> str:
        try:
            return normalise_email(self.cleaned_data["email"])
        except InvalidEmail as error:
            raise forms.ValidationError(str(error)) from None
