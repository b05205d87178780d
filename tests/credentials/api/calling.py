"""A script that calls the management API with an access token."""

from __future__ import annotations

import json
from typing import Any

from django.test import Client

from accounts import access_tokens
from accounts.actors import Person
from accounts.models import User
from tests.support.pages import FROM_LOOPBACK


class Script:
    """A script that acts for a person, with a new access token."""

    def __init__(self, user: User, **token: Any) -> None:
        made = access_tokens.create(actor=Person(user), user=user, label="script", **token)
        self.token = made.token
        self.client = Client(headers=FROM_LOOPBACK | {"Authorization": f"Bearer {made.plaintext}"})

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        data = "" if body is None else json.dumps(body)
        path = f"/api/v1{path}"
        return self.client.generic(method, path, data, content_type="application/json", headers=headers)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send a request. Returns the status and the parsed body."""
        response = self.send(method, path, body, **headers)
        return response.status_code, json.loads(response.content) if response.content else None
