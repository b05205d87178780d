"""Forms of the pages in `accounts.views`."""

from __future__ import annotations

from typing import Any

from django import forms

from accounts.access_tokens import MAX_LABEL_LENGTH
from accounts.audit_log import ACTIONS
from accounts.models import User


class AccessTokenForm(forms.Form):
    label = forms.CharField(
        label="What is it for?",
        max_length=MAX_LABEL_LENGTH,
        widget=forms.TextInput(attrs={"placeholder": "Laptop, CI, …", "autocomplete": "off"}),
        help_text="A name, so that you know later which token to revoke.",
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

    scopes = forms.TypedChoiceField(
        label="What may it do?",
        choices=[
            ("tokens endpoints", "manage endpoints and their tokens"),
            ("tokens", "manage tokens, not endpoints"),
            ("endpoints", "manage endpoints, not tokens"),
            ("read", "only read"),
        ],
        coerce=str.split,
    )
    allowed_networks = forms.CharField(
        label="Only from these networks",
        required=False,
        max_length=4096,
        widget=forms.Textarea(
            attrs={"class": "mono", "rows": 2, "spellcheck": "false", "placeholder": "192.0.2.0/24\n2001:db8::/48"}
        ),
        help_text="One per line. Leave empty to use it from anywhere.",
    )


class DeleteAccountForm(forms.Form):
    confirmation = forms.CharField(
        label="Your email address",
        max_length=254,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        error_messages={"required": "Type your email address to delete your account."},
    )


class AuditFilterForm(forms.Form):
    """Filters of the audit log. Only staff get the field `everybody`."""

    text = forms.CharField(label="Search", max_length=100, required=False, widget=forms.SearchInput)
    action = forms.ChoiceField(label="Action", required=False, choices=[("", "All"), *ACTIONS.items()])
    since = forms.DateField(label="From", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(label="To", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    everybody = forms.BooleanField(label="Everybody", required=False)

    def __init__(self, *args: Any, viewer: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not viewer.is_staff:
            del self.fields["everybody"]

    def filters(self) -> dict[str, Any]:
        """The filters that are set and valid. Call `is_valid` first."""
        return {name: value for name, value in self.cleaned_data.items() if value}
