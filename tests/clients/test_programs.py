"""Command-line clients against a running Strake, with the lines of their pages.

A refused token must lead to a message that names Strake within seconds. The program must not retry for ever, and must
not throw away how it is signed in. `make clients` runs all programs. `make check` runs one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from accounts import tokens
from credentials.models import BEARER_TOKEN_PREFIX
from tests.clients import programs
from tests.clients.conftest import DOMAIN, Row, executable
from tests.clients.programs import PROGRAMS, Program
from tests.clients.provider import REPLY, answer
from tests.clients.relay import Relay
from tests.conftest import REQUIRE_SERVICES
from tests.support.running import KEY, Strake
from tests.support.upstream import Upstream

pytestmark = pytest.mark.namespaces

REFUSALS = {
    "wrong": "This Strake token is not valid for this endpoint",
    "revoked": "This Strake token is not valid for this endpoint",
    "limited": "This Strake token may not call this path",
}
SIGNED_OUT = ("/login", "logged out", "signed out", "log in again", "sign in again")
# The goal is 10 s, which the table shows. This bound also holds on a machine that is busy with other things.
MOST_SECONDS = 60


@dataclass
class Place:
    """An endpoint's URL as a client sees it, its tokens, and the relay in front of Strake."""

    url: str
    host: str
    tokens: dict[str, str]
    relay: Relay


@pytest.fixture(params=["path", "own host"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(form: str, request: pytest.FixtureRequest, program: Program, upstream: Upstream) -> Iterator[Place]:
    strake: Strake = request.getfixturevalue("strake" if form == "path" else "own_hosts")
    upstream.default = answer
    made = strake.stand_in(program.provider.slug, upstream.url)
    revoked = strake.issue(made)
    strake.revoke(revoked)
    limited = strake.issue(made, allowed_paths=["GET /nothing"])
    issued = {
        "right": made.token,
        "wrong": tokens.mint(BEARER_TOKEN_PREFIX),
        "revoked": revoked.token,
        "limited": limited.token,
    }
    with Relay(strake.address) as relay:
        host = f"{made.subdomain}.{DOMAIN}"
        url = f"http://127.0.0.1:{relay.port}{made.path}" if form == "path" else f"http://{host}:{relay.port}"
        yield Place(url, host, issued, relay)


def offered() -> list[Program]:
    """Every program if there is a folder of clients, or else the one that the tests install."""
    return [program for program in PROGRAMS if executable(program) is not None]


@pytest.fixture(params=offered() or [PROGRAMS[-2]], ids=lambda program: program.id)
def program(request: pytest.FixtureRequest) -> Program:
    found: Program = request.param
    if executable(found) is None:
        if REQUIRE_SERVICES:
            pytest.fail(f"{found.name} is not installed")
        pytest.skip(f"{found.name} is not installed")
    return found


def digests(home: Path) -> dict[str, str]:
    """The files with settings and sign-ins that the page has led to."""
    kept = [path for path in home.rglob("*.json") if path.name in {"auth.json", "settings.json", "models.json"}]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (*kept, *home.rglob("config.toml"))}


@pytest.mark.parametrize("token", ["right", *REFUSALS])
@pytest.mark.timeout(400)
def test_program_answers_or_says_why(
    program: Program,
    place: Place,
    token: str,
    form: str,
    upstream: Upstream,
    tmp_path: Path,
    table: list[Row],
) -> None:
    home = tmp_path / "home"
    found = executable(program)
    assert found is not None
    script = programs.prepare(program, found, home, place.url, place.tokens[token])
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {place.host}\n")
    before = digests(home)
    outcome = programs.run(program, script, home, hosts)
    seconds = outcome.seconds_to(REPLY if token == "right" else program.message or REFUSALS[token])
    waited = outcome.started_at - (place.relay.first_at or 0) + (seconds or 0)
    table.append(Row(program.id, form, token, seconds, waited, outcome.seconds, place.relay.requests))
    assert seconds is not None, outcome.output[-3000:]
    assert place.relay.requests <= program.most_requests
    if token == "right":
        assert outcome.status == 0, outcome.output[-3000:]
        assert upstream.exchanges
        assert all(KEY.encode() in exchange.raw_head for exchange in upstream.exchanges)
        assert not any(place.tokens[token].encode() in exchange.raw_head for exchange in upstream.exchanges)
        return
    assert not upstream.exchanges
    assert waited < MOST_SECONDS
    assert not [word for word in SIGNED_OUT if word in outcome.output.lower()], outcome.output[-3000:]
    assert before.items() <= digests(home).items()
