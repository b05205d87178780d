"""Services and test data over JSON lines: `python -m tests.support.provisioner` reads calls and prints results.

Starting `manage.py` for each of hundreds of endpoints would take minutes. This starts Django once per running Strake.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")

import django

django.setup()

from django.db.models.functions import Now  # noqa: E402
from django.utils import timezone  # noqa: E402

from accounts import users  # noqa: E402
from accounts.actors import OPERATOR, Person  # noqa: E402
from accounts.models import User  # noqa: E402
from accounts.sign_in import magic_links  # noqa: E402
from credentials import services  # noqa: E402
from credentials.models import BearerToken, Credential  # noqa: E402
from tests.support import factories  # noqa: E402


def connect(*, email: str = "owner@example.org", provider: str = "custom", key: str, **fields: Any) -> dict[str, str]:
    owner, _ = User.objects.get_or_create(email=email)
    made = services.connect(actor=OPERATOR, owner=owner, provider=provider, api_key=key, unchecked=True, **fields)
    return {
        "url": made.endpoint.url,
        "subdomain": made.endpoint.subdomain,
        "token": made.plaintext,
        "token_id": made.token.pk,
    }


def make(*, email: str = "owner@example.org", **fields: Any) -> dict[str, str]:
    """Create an endpoint of any provider with any destination. `fields` are those of `factories.make_endpoint`."""
    owner, _ = User.objects.get_or_create(email=email)
    made = factories.make_endpoint(owner=owner, **fields)
    return {
        "url": made.endpoint.url,
        "subdomain": made.endpoint.subdomain,
        "token": made.plaintext,
        "token_id": made.token.pk,
    }


def derived(*, subdomain: str) -> dict[str, Any]:
    """The stored access token of an endpoint, with its binary columns in hexadecimal, or nothing."""
    from credentials.models import DerivedToken

    found = DerivedToken.objects.filter(credential__endpoint__subdomain=subdomain)
    row: dict[str, Any] = dict(found.values().first() or {})
    return {
        name: bytes(value).hex() if isinstance(value, bytes | memoryview) else value and str(value)
        for name, value in row.items()
    }


def restore_derived(**columns: Any) -> dict[str, str]:
    """Store what `derived` returned, in place of what is there now."""
    from credentials.models import DerivedToken

    binary = {field.name for field in DerivedToken._meta.concrete_fields if field.get_internal_type() == "BinaryField"}
    values = {name: bytes.fromhex(value) if name in binary else value for name, value in columns.items()}
    DerivedToken(**values).save()
    return {}


def reseal(*, subdomain: str, key: str) -> dict[str, str]:
    """Replace a key without a check."""
    credential = Credential.objects.get(endpoint__subdomain=subdomain)
    credential.secret = key
    credential.save()
    return {}


def age_derived(*, subdomain: str, seconds: int) -> dict[str, str]:
    """Let the stored access token, and its last failure, be older by `seconds`."""
    from django.db.models import F

    from credentials.models import DerivedToken

    rows = DerivedToken.objects.filter(credential__endpoint__subdomain=subdomain)
    by = timedelta(seconds=seconds)
    rows.update(**{name: F(name) - by for name in ("issued_at", "expires_at", "failed_at", "renewing_until")})
    return {}


def issue(*, subdomain: str, **limits: Any) -> dict[str, str]:
    issued = services.issue_token(actor=OPERATOR, subdomain=subdomain, **limits)
    return {"token": issued.plaintext, "token_id": issued.token.pk}


def rotate(*, token_id: str) -> dict[str, str]:
    issued = services.rotate_token(actor=OPERATOR, token_id=token_id)
    return {"token": issued.plaintext, "token_id": issued.token.pk}


def revoke(*, token_id: str) -> dict[str, str]:
    services.revoke_token(actor=OPERATOR, token_id=token_id)
    return {}


def issue_for(*, subdomain: str, seconds: float) -> dict[str, str]:
    """Issue a token that expires after some seconds."""
    return issue(subdomain=subdomain, expires_at=timezone.now() + timedelta(seconds=seconds))


def expire(*, token_id: str) -> dict[str, str]:
    """Let a token expire now."""
    BearerToken.objects.filter(pk=token_id).update(expires_at=Now())
    return {}


def replace_key(*, subdomain: str, key: str) -> dict[str, str]:
    services.replace_key(actor=OPERATOR, subdomain=subdomain, api_key=key, unchecked=True)
    return {}


def suspend(*, email: str) -> dict[str, str]:
    User.objects.filter(email=email).update(suspended_at=Now())
    return {}


def delete_account(*, email: str) -> dict[str, str]:
    users.delete_account(actor=Person(users.find(email)), confirmation=email)
    return {}


def pause(*, subdomain: str) -> dict[str, str]:
    services.pause(actor=OPERATOR, subdomain=subdomain)
    return {}


def resume(*, subdomain: str) -> dict[str, str]:
    services.resume(actor=OPERATOR, subdomain=subdomain)
    return {}


def limit(*, subdomain: str, max_streams: int | None) -> dict[str, str]:
    services.limit_endpoint(actor=OPERATOR, subdomain=subdomain, max_streams=max_streams)
    return {}


def delete(*, subdomain: str) -> dict[str, str]:
    services.delete_endpoint(actor=OPERATOR, subdomain=subdomain, confirmation=subdomain)
    return {}


def set_field(*, table: str, row_id: str, field: str, value: Any, is_hex: bool) -> dict[str, str]:
    """Set one column of one row. With `is_hex`, the value is bytes in hexadecimal."""
    from django.db import transaction
    from django.db.models import Model

    from credentials.models import Credential, Endpoint, SealedKey

    models: tuple[type[Model], ...] = (Credential, Endpoint, SealedKey)
    row = {model._meta.db_table: model for model in models}[table]._default_manager.get(pk=row_id)
    if field == "id":
        with transaction.atomic():
            type(row)._default_manager.filter(pk=row_id).update(id=value)
            SealedKey.objects.filter(credential__pk=row.pk).update(credential_id=value)
        return {}
    setattr(row, field, bytes.fromhex(value) if is_hex else value)
    row.save(update_fields=[field])
    return {}


def records(*, subdomain: str) -> dict[str, Any]:
    from proxy.models import RequestRecord

    found = RequestRecord.objects.filter(endpoint__subdomain=subdomain).order_by("at")
    return {"records": list(found.values("status", "latency_ms", "first_byte_ms", "error", "phase"))}


def refusals(*, subdomain: str) -> dict[str, Any]:
    from proxy.models import RefusalCount

    found = RefusalCount.objects.filter(endpoint__subdomain=subdomain).order_by("last_at")
    return {"refusals": list(found.values("token_id", "code", "count"))}


def count_records(*, subdomain: str) -> dict[str, int]:
    from proxy.models import RequestRecord

    return {"count": RequestRecord.objects.filter(endpoint__subdomain=subdomain).count()}


def rows(*, but_of: str) -> dict[str, Any]:
    """The number of rows of every table, without the requests of one endpoint."""
    from django.apps import apps

    from proxy.models import RequestRecord

    counted = {model._meta.db_table: model._default_manager.count() for model in apps.get_models()}
    counted[RequestRecord._meta.db_table] -= count_records(subdomain=but_of)["count"]
    return {"rows": counted}


def signin_link(*, email: str, staff: bool = False) -> dict[str, str]:
    return {"link": magic_links.operator_link(email=email, staff=staff)}


def create_access_token(*, email: str) -> dict[str, str]:
    from accounts import access_tokens

    owner = User.objects.get(email=email)
    return {"token": access_tokens.create(actor=OPERATOR, user=owner, label="script").plaintext}


def allow_device(*, email: str, user_code: str) -> dict[str, str]:
    from accounts import device_grants

    device_grants.allow(actor=OPERATOR, user=users.find(email), user_code=user_code)
    return {}


def expire_links(*, email: str) -> dict[str, str]:
    from django.db.models import F

    from accounts.models import SignInLink

    earlier = {name: F(name) - timedelta(hours=1) for name in ("created_at", "expires_at")}
    SignInLink.objects.filter(email=email).update(**earlier)
    return {}


def command(*, arguments: list[str]) -> dict[str, Any]:
    """Run a `manage.py` command in this process. Returns its output, and its error if it fails."""
    from io import StringIO

    from django.core.management import CommandError, call_command

    out = StringIO()
    try:
        call_command(*arguments, stdout=out)
    except CommandError as error:
        return {"output": out.getvalue(), "failed": str(error)}
    return {"output": out.getvalue(), "failed": ""}


def run(*, code: str) -> dict[str, str]:
    """Run code in this process, in a namespace of its own. Returns what it prints."""
    from contextlib import redirect_stdout
    from io import StringIO

    with redirect_stdout(StringIO()) as out:
        exec(code, {})
    return {"output": out.getvalue()}


def audit_trail() -> dict[str, Any]:
    """The audit trail as lines of JSON, oldest first, as an export has them."""
    from accounts.models import AuditEvent

    names = ("at", "action", "subject_type", "subject_id", "subject_label", "details")
    events = AuditEvent.objects.order_by("pk").values("pk", *names)
    return {"lines": [json.dumps({**one, "sequence": one.pop("pk"), "at": one["at"].isoformat()}) for one in events]}


def fill(*, email: str, **sizes: int) -> dict[str, Any]:
    """Create a lot of data (tests/support/populate.py). Returns the subdomains, the busiest first, and the person."""
    from tests.support.populate import populate

    owner, _ = User.objects.get_or_create(email=email)
    made = populate(owner, **sizes)
    return {"subdomains": [endpoint.subdomain for endpoint in made], "person": str(owner.pk)}


FUNCTIONS = {
    function.__name__: function
    for function in (
        connect,
        derived,
        age_derived,
        restore_derived,
        reseal,
        make,
        issue,
        rotate,
        revoke,
        issue_for,
        expire,
        replace_key,
        suspend,
        delete_account,
        pause,
        resume,
        limit,
        delete,
        set_field,
        records,
        count_records,
        rows,
        refusals,
        signin_link,
        create_access_token,
        allow_device,
        expire_links,
        fill,
        command,
        run,
        audit_trail,
    )
}

if __name__ == "__main__":
    for line in sys.stdin:
        call = json.loads(line)
        try:
            reply = FUNCTIONS[call.pop("function")](**call)
        except Exception as error:  # noqa: BLE001  (the caller gets every error)
            reply = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
