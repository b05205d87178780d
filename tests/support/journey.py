"""Every page and call of the API that touches endpoints or their keys, used once.

`python -m tests.support.journey DESTINATION` uses them on the database of the environment, and prints each step that
failed as JSON. DESTINATION is the URL of an upstream that accepts every key.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

import django


def walk(destination: str) -> Iterator[tuple[str, int]]:
    """Yield each step with its status, which is below 400 unless something is broken. Creates its own people."""
    from django.test import Client

    from accounts import access_tokens
    from accounts.actors import Person
    from accounts.models import User
    from credentials.models import Endpoint

    person = User.objects.create(email="traveller@example.org")
    browser, script, operator = Client(), Client(), Client()
    browser.force_login(person)
    operator.force_login(User.objects.create(email="operator-of-the-journey@example.org", is_staff=True))
    token = access_tokens.create(actor=Person(person), user=person, label="script").plaintext
    script.defaults["HTTP_AUTHORIZATION"] = f"Bearer {token}"

    def get(path: str, client: Client = browser) -> tuple[str, int]:
        return f"GET {path}", client.get(path).status_code

    def post(path: str, client: Client = browser, /, **data: str) -> tuple[str, int]:
        return f"POST {path}", client.post(path, data).status_code

    def call(method: str, path: str, body: object = None) -> tuple[str, int]:
        response = script.generic(method, f"/api/v1{path}", json.dumps(body), content_type="application/json")
        return f"{method} {path}", response.status_code

    key = {"api_key": "sk-of-the-journey", "destination_url": destination}
    for _ in range(3):
        form = browser.get("/endpoints/connect/custom/").content.decode()
        submission = re.search(r'name="submission" value="(\w+)"', form)
        assert submission is not None
        yield post("/endpoints/connect/custom/", submission=submission[1], **key)
    first, second = (endpoint.subdomain for endpoint in Endpoint.objects.filter(owner=person)[:2])
    page = f"/endpoints/{first}/"
    for path in ("", "?q=custom&state=active&sort=used"):
        yield get(f"/endpoints/{path}")
    for path in (
        "",
        "?tokens=all",
        "requests/",
        "traffic/",
        "name/",
        "limits/",
        "key/",
        "destination/",
        "delete/",
    ):
        yield get(page + path)
    yield post(f"{page}key/", **key)
    yield post(f"{page}destination/", **key | {"destination_url": f"{destination}/v2"})
    yield post(f"{page}name/", label="renamed")
    yield post(f"{page}limits/", max_streams="5")
    yield post(f"{page}pause/")
    yield post(f"{page}resume/")
    for path in ("/activity/", f"/docs/?endpoint={first}", "/audit/", "/audit.csv", "/settings/", "/access-tokens/"):
        yield get(path)
    for path in ("/me", "/endpoints", f"/endpoints/{first}"):
        yield call("GET", path)
    yield call("POST", "/endpoints", {"provider": "custom", **key})
    yield call("POST", f"/endpoints/{first}/credential/rotate", {"api_key": "sk-another-of-the-journey"})
    yield call("DELETE", f"/endpoints/{second}")
    for path in (
        "",
        "health/",
        "people/?q=traveller",
        f"people/{person.pk}/",
        "endpoints/",
        f"endpoints/{first}/limits/",
    ):
        yield get(f"/admin/{path}", operator)
    other = f"/admin/people/{User.objects.create(email='suspended-on-the-journey@example.org').pk}/"
    yield post(f"{other}suspend/", operator, reason="a test")
    yield get(other, operator)
    yield post(f"{other}resume/", operator)
    yield post(f"/admin/endpoints/{first}/limits/", operator, max_streams="6")
    yield post(f"{page}delete/", confirmation=first)
    yield post("/settings/delete/", confirmation=person.email)


if __name__ == "__main__":
    django.setup()

    from django.test.utils import setup_test_environment

    setup_test_environment()
    steps = list(walk(sys.argv[1]))
    sys.stdout.write(json.dumps({"steps": len(steps), "failed": [step for step in steps if step[1] >= 400]}))
