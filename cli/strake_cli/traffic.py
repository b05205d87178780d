"""`strake usage` and `strake audit`."""

from __future__ import annotations

import click

from strake_cli import output
from strake_cli.options import State, common, endpoint_argument


@click.command()
@endpoint_argument
@common
def usage(state: State, endpoint: str) -> None:
    """Show what an endpoint and its tokens were used for."""
    subdomain = state.api.endpoint(endpoint)["endpoint"]["subdomain"]
    output.as_json(state.api.call("GET", f"/endpoints/{subdomain}/usage"))


@click.command()
@common
def audit(state: State) -> None:
    """Show who changed what in your account, newest first."""
    output.as_json(state.api.call("GET", "/audit"))
