"""The audit events of endpoints and tokens, with the details of a change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from accounts import audit
from accounts.actors import Actor, Visitor
from credentials.delivery import Delivery
from credentials.models import BearerToken, Credential, Endpoint
from credentials.places import Place
from credentials.providers import STATIC
from credentials.token_limits import LIMIT_NAMES


def change(before: object, after: object) -> dict[str, Any]:
    """Return the details of a changed value."""
    return {"from": before, "to": after}


def places_of(places: Iterable[Place]) -> dict[str, Any]:
    """Return the details of further places: only their names, because a constant value may be secret."""
    labels = [place.label for place in places]
    return {"places": labels} if labels else {}


def cloud_of(delivery: Delivery) -> dict[str, Any]:
    """Return the details of a cloud credential. Its parameters are not secret."""
    return {} if delivery.kind == STATIC else {"kind": delivery.kind, **delivery.parameters}


def changed_destination(stored: Credential, delivery: Delivery) -> dict[str, Any]:
    """What an event says of a changed destination, or nothing if only the key is replaced.

    Of places that have another value now, it says the names.
    """
    changes: dict[str, Any] = {}
    pairs = {
        "": (stored.destination_url, delivery.destination.url),
        "header_": (stored.header_name, delivery.header_name),
        "header_template_": (stored.header_template, delivery.header_template),
    }
    for prefix, (before, after) in pairs.items():
        if before != after:
            changes |= {f"{prefix}from": before, f"{prefix}to": after}
    earlier = Delivery.of(stored).places
    if earlier != delivery.places:
        names = [place.label for place in earlier]
        changed = {place.label for place in {*earlier} ^ {*delivery.places}}
        changes |= {
            "places_from": names,
            "places_to": [place.label for place in delivery.places],
            "places_changed": sorted(changed & {*names} & {place.label for place in delivery.places}),
        }
    if stored.parameters != delivery.parameters:
        changes |= {"parameters_from": stored.parameters, "parameters_to": delivery.parameters}
    return changes


def limits_of(token: BearerToken) -> dict[str, Any]:
    """The limits of a token that are set, for an event, and its parent."""
    names = (*LIMIT_NAMES, "parent_id")
    return {name: value for name in names if (value := getattr(token, name))}


def changed_limits(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What an event says of values that have changed: `{name}_from` and `{name}_to`."""
    changes: dict[str, Any] = {}
    for name, value in after.items():
        if before[name] != value:
            changes |= {f"{name}_from": before[name], f"{name}_to": value}
    return changes


def record(
    actor: Actor | Visitor, action: str, endpoint: Endpoint, token: BearerToken | None = None, **details: Any
) -> None:
    """Record an event about an endpoint, or about one of its tokens. `details` is what changed."""
    audit.record(
        actor,
        action,
        account=endpoint.owner,
        subject_type="endpoint" if token is None else "token",
        subject_id=endpoint.subdomain if token is None else token.pk,
        subject_label=endpoint.label if token is None else f"{token.label} of {endpoint.label}",
        details=details,
    )
