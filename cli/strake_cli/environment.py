"""`strake env` and `strake token print`: a token for tools that this command line does not start itself."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from typing import Any

import click

from strake_cli import config, output, tools
from strake_cli.options import SECONDS, State, common, endpoint_argument, given, limits
from strake_cli.running import TTL, issue, target_of

_PRINT_TTL = 3600
_LEFT = 0.2  # of its life, when it is renewed


@click.command()
@endpoint_argument
@click.option("--ttl", type=SECONDS, default=TTL, show_default="8h", help="When the token ends.")
@click.option("--tool", type=click.Choice(tools.NAMES), default="sdk", help="Whose variables to print.")
@click.option("--api", type=click.Choice([tools.OPENAI, tools.ANTHROPIC, tools.GEMINI]), help="Use this API.")
@limits
@common
def env(state: State, endpoint: str, ttl: int, tool: str, api: str | None, **restrictions: Any) -> None:
    """Print lines that set a tool's variables to a new token. Nothing revokes it before its --ttl.

    \b
    eval "$(strake env ENDPOINT)"
    """
    found = state.api.endpoint_with_settings(endpoint)
    tools.setup(target_of(found, "none yet"), tool, api or "")
    issued = issue(state.api, found["subdomain"], label="strake env", ttl=ttl, **given(restrictions))
    setup = tools.setup(target_of(found, issued["plaintext"]), tool, api or "")
    if sys.stdout.isatty():
        output.say(
            "The token below is now on your terminal, and in your history if you paste it. "
            f'Use instead: eval "$(strake env {endpoint})"'
        )
    if state.json:
        output.as_json({"set": dict(setup.variables), "unset": list(setup.removed), "token_id": issued["id"]})
        return
    for name in setup.removed:
        sys.stdout.write(f"unset {name}\n")
    for name, value in setup.variables.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    if setup.arguments:
        output.say(f"Also give {tool} these arguments: {shlex.join(setup.arguments)}")
    output.say(f"Token {issued['id']} ends at {output.time(issued['expires_at'])}. To end it now:")
    output.say(f"  strake tokens revoke {found['subdomain']} {issued['id']}")


@click.group()
def token() -> None:
    """Print a short-lived token, for tools that ask a command for it."""


@token.command("print")
@endpoint_argument
@click.option("--ttl", type=SECONDS, default=_PRINT_TTL, show_default="1h", help="When the token ends.")
@common
def print_token(state: State, endpoint: str, ttl: int) -> None:
    """Print a token for ENDPOINT that lives an hour. It is kept, and renewed before it ends.

    For Claude Code's apiKeyHelper and for Codex's command auth.
    """
    with config.changed() as stored:  # locked, so that several tools that start together share one token
        kept = stored.setdefault("tokens", {}).setdefault(state.server, {})
        found = state.api.endpoint(endpoint)
        subdomain = found["endpoint"]["subdomain"]
        one = kept.get(subdomain)
        live = {other["id"] for other in found["tokens"] if not other["revoked_at"]}
        if one is None or one["id"] not in live or not _is_fresh(one):
            issued = issue(state.api, subdomain, label="strake token print", ttl=ttl)
            one = kept[subdomain] = {
                "id": issued["id"],
                "token": issued["plaintext"],
                "issued_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "expires_at": issued["expires_at"],
            }
        for name in [name for name, other in kept.items() if _left(other) <= 0]:
            del kept[name]
    if state.json:
        output.as_json({"id": one["id"], "token": one["token"], "expires_at": one["expires_at"]})
    else:
        sys.stdout.write(one["token"] + "\n")


def _is_fresh(kept: dict[str, str]) -> bool:
    life = datetime.fromisoformat(kept["expires_at"]) - datetime.fromisoformat(kept["issued_at"])
    return _left(kept) > life.total_seconds() * _LEFT


def _left(kept: dict[str, str]) -> float:
    return (datetime.fromisoformat(kept["expires_at"]) - datetime.now(UTC)).total_seconds()
