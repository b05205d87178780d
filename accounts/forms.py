"""Forms of the accounts pages."""

from __future__ import annotations

from typing import Any

from django import forms

from accounts.addresses import normalise_email
from accounts.errors import InvalidEmail
from accounts.models import User
from accounts.trail import ACTIONS


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


class AccessTokenForm(forms.Form):
    """What a new access token is for, and for how long."""

    label = forms.CharField(
        label="What is it for?",
        max_length=100,
        widget=forms.TextInput(attrs={"placeholder": "Laptop, CI, …", "autocomplete": "off"}),
        help_text="A name, so that you know later which one to revoke.",
        error_messages={"required": "Give the token a name, so that you recognise it later."},
    )
    days = forms.TypedChoiceField(
        label="Expires",
        choices=[(30, "in 30 days"), (90, "in 90 days"), (365, "in a year"), ("", "never")],
        coerce=int,
        empty_value=None,
        required=False,
        initial=90,
    )


class DeleteAccountForm(forms.Form):
    """Typed proof that this is meant."""

    confirmation = forms.CharField(
        label="Your e-mail address",
        max_length=254,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        error_messages={"required": "Type your e-mail address to delete your account."},
    )


class TrailForm(forms.Form):
    """Which part of the audit trail to show."""

    text = forms.CharField(label="Search", max_length=100, required=False, widget=forms.SearchInput)
    action = forms.ChoiceField(label="Action", required=False, choices=[("", "All"), *ACTIONS.items()])
    since = forms.DateField(label="From", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(label="To", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    everybody = forms.BooleanField(label="Everybody", required=False)

    def __init__(self, *args: Any, viewer: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not viewer.is_staff:
            del self.fields["everybody"]

    def chosen(self) -> dict[str, Any]:
        """The filters that are set and make sense."""
        return {name: value for name, value in self.cleaned_data.items() if value}
