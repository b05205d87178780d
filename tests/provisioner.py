"""The operator's services over standard input and output, one JSON object a line: `python -m tests.provisioner`.

Starting `manage.py` for each of hundreds of endpoints would take minutes; this starts Django once per running Strake.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "strake.settings")

import django

django.setup()

from accounts import links  # noqa: E402
from accounts.audit import OPERATOR  # noqa: E402
from accounts.models import User  # noqa: E402
from credentials import services  # noqa: E402


def connect(*, email: str = "owner@example.org", provider: str = "custom", key: str, **fields: Any) -> dict[str, str]:
    owner, _ = User.objects.get_or_create(email=email)
    made = services.connect(actor=OPERATOR, owner=owner, provider=provider, api_key=key, unchecked=True, **fields)
    return {
        "url": made.endpoint.url,
        "subdomain": made.endpoint.subdomain,
        "token": made.plaintext,
        "token_id": made.token.pk,
    }


def issue(*, subdomain: str, **limits: Any) -> dict[str, str]:
    issued = services.issue_token(actor=OPERATOR, subdomain=subdomain, **limits)
    return {"token": issued.plaintext, "token_id": issued.token.pk}


def rotate(*, token_id: str) -> dict[str, str]:
    issued = services.rotate_token(actor=OPERATOR, token_id=token_id)
    return {"token": issued.plaintext, "token_id": issued.token.pk}


def revoke(*, token_id: str) -> dict[str, str]:
    services.revoke_token(actor=OPERATOR, token_id=token_id)
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
    """One column of one row, through the ORM; bytes are given in hexadecimal."""
    from credentials.models import Credential, Endpoint

    row = {model._meta.db_table: model for model in (Credential, Endpoint)}[table]._default_manager.get(pk=row_id)
    if field == "id":
        type(row)._default_manager.filter(pk=row_id).update(id=value)
        return {}
    setattr(row, field, bytes.fromhex(value) if is_hex else value)
    row.save(update_fields=[field])
    return {}


def records(*, subdomain: str) -> dict[str, Any]:
    from proxy.models import RequestRecord

    found = RequestRecord.objects.filter(endpoint__subdomain=subdomain).order_by("at")
    return {"records": list(found.values("status", "latency_ms", "first_byte_ms"))}


def signin_link(*, email: str, staff: bool = False) -> dict[str, str]:
    return {"link": links.operator_link(email=email, staff=staff)}


def expire_links(*, email: str) -> dict[str, str]:
    from datetime import timedelta

    from django.db.models import F

    from accounts.models import SignInLink

    earlier = {name: F(name) - timedelta(hours=1) for name in ("created_at", "expires_at")}
    SignInLink.objects.filter(email=email).update(**earlier)
    return {}


def fill(*, email: str, **sizes: int) -> dict[str, Any]:
    """Very much data (tests/populate.py); the subdomains of the endpoints, the busiest first."""
    from tests.populate import populate

    owner, _ = User.objects.get_or_create(email=email)
    return {"subdomains": [endpoint.subdomain for endpoint in populate(owner, **sizes)]}


VERBS = {
    verb.__name__: verb
    for verb in (
        connect,
        issue,
        rotate,
        revoke,
        pause,
        resume,
        limit,
        delete,
        set_field,
        records,
        signin_link,
        expire_links,
        fill,
    )
}

if __name__ == "__main__":
    for line in sys.stdin:
        call = json.loads(line)
        try:
            answer = VERBS[call.pop("verb")](**call)
        except Exception as error:  # noqa: BLE001  (whatever it is, the caller is told)
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
