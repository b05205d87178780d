"""Commands about the tokens of endpoints."""

from __future__ import annotations

import sys
from typing import Any

import click

from strake_cli import output
from strake_cli.api import segment
from strake_cli.endpoints import token_table
from strake_cli.errors import CliError
from strake_cli.options import SECONDS, State, changed, common, endpoint_argument, given, limits


@click.group()
def tokens() -> None:
    """List, add, edit, rotate and revoke the tokens of an endpoint."""


@tokens.command("list")
@endpoint_argument
@click.option("--all", "with_ended", is_flag=True, help="Also those that were revoked or have expired.")
@common
def list_tokens(state: State, endpoint: str, with_ended: bool) -> None:
    """List the tokens of an endpoint."""
    found = state.api.endpoint(endpoint)["tokens"]
    if state.json:
        output.as_json({"tokens": found})
    else:
        token_table(found, with_ended=with_ended)


@tokens.command()
@endpoint_argument
@click.option("--label", default="", help="A name for the token.")
@click.option("--ttl", "expires_in", type=SECONDS, help="How long it works, such as 8h.")
@click.option("--parent", "parent_id", metavar="TOKEN-ID", help="The token whose end also ends this one.")
@click.option("--allow-minting", is_flag=True, help="Allow calls that create credentials at the provider.")
@limits
@common
def add(state: State, endpoint: str, **fields: Any) -> None:
    """Add a token. It is printed on standard output, this once."""
    subdomain = state.api.endpoint(endpoint)["endpoint"]["subdomain"]
    _shown(state, state.api.call("POST", f"/endpoints/{subdomain}/tokens", json=given(fields)))


@tokens.command()
@endpoint_argument
@click.argument("token_id", metavar="TOKEN-ID")
@click.option("--label", help="Another name.")
@click.option("--ttl", "expires_in", type=SECONDS, help="How long it works from now on, such as 8h.")
@limits
@common
def edit(state: State, endpoint: str, token_id: str, **fields: Any) -> None:
    """Change the name, the expiry and the limits of a token. The value none ends a limit."""
    changes = changed(fields)
    if not changes:
        raise CliError("Say what to change, such as --label or --rpm. See: strake tokens edit --help", "nothing")
    subdomain = state.api.endpoint(endpoint)["endpoint"]["subdomain"]
    answer = state.api.call("PATCH", f"/endpoints/{subdomain}/tokens/{segment(token_id)}", json=changes)
    if state.json:
        output.as_json(answer)
    else:
        output.say("Changed.")


@tokens.command()
@endpoint_argument
@click.argument("token_id", metavar="TOKEN-ID")
@common
def rotate(state: State, endpoint: str, token_id: str) -> None:
    """Replace a token. The old one stops working when the new one starts. It is printed on standard output."""
    subdomain = state.api.endpoint(endpoint)["endpoint"]["subdomain"]
    _shown(state, state.api.call("POST", f"/endpoints/{subdomain}/tokens/{segment(token_id)}/rotate"))


@tokens.command()
@endpoint_argument
@click.argument("token_id", metavar="TOKEN-ID")
@common
def revoke(state: State, endpoint: str, token_id: str) -> None:
    """End a token at once, also what is in flight with it."""
    subdomain = state.api.endpoint(endpoint)["endpoint"]["subdomain"]
    state.api.call("DELETE", f"/endpoints/{subdomain}/tokens/{segment(token_id)}")
    if state.json:
        output.as_json({"revoked": token_id})
    else:
        output.say("Revoked.")


def _shown(state: State, answer: dict[str, Any]) -> None:
    """Print the plaintext alone, so that a script can read it, and the rest for the person."""
    if state.json:
        output.as_json(answer)
        return
    sys.stdout.write(answer["token"]["plaintext"] + "\n")
    output.say(f"This is {answer['token']['id']}. It is shown this once.")
