"""`strake run`: a tool with its own token, which ends with the tool."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from strake_cli import output, supervision, tools
from strake_cli.api import Api, segment
from strake_cli.errors import CliError, Missing
from strake_cli.options import SECONDS, State, common, endpoint_argument, given, limits
from strake_cli.tools import Setup, Target

TTL = 8 * 3600
_ATTEMPTS, _SECONDS = 3, 5  # to revoke


@click.command()
@click.option("--ttl", type=SECONDS, default=TTL, show_default="8h", help="The token ends then in any case.")
@click.option("--parent", metavar="TOKEN-ID", help="The token whose end also ends this one.")
@click.option("--as", "tool", type=click.Choice(tools.NAMES), help="Set the variables of this tool.")
@click.option("--api", type=click.Choice([tools.OPENAI, tools.ANTHROPIC, tools.GEMINI]), help="Use this API.")
@limits
@common
@endpoint_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    state: State,
    endpoint: str,
    command: tuple[str, ...],
    ttl: int,
    parent: str | None,
    tool: str | None,
    api: str | None,
    **restrictions: Any,
) -> None:
    """Run COMMAND with a token for ENDPOINT that is revoked when it ends.

    \b
    strake run ENDPOINT -- claude
    strake run ENDPOINT --ttl 1h --rpm 60 --paths /v1/messages -- claude -p 'Say hello.'

    The token is only in the variables that the tool reads. Exit code and signals are those of the tool. If this
    command is killed, a watcher revokes the token, and if the machine dies, the token ends with its --ttl.
    """
    found = state.api.endpoint_with_settings(endpoint)
    program = tool or command[0]
    tools.setup(target_of(found, "none yet"), program, api or "")  # fails before a token is made
    limits_ = {**given(restrictions), **given({"parent_id": parent})}
    with supervision.held_signals() as mask:
        label = f"strake run {os.path.basename(command[0])}"[:100]
        issued = issue(state.api, found["subdomain"], label=label, ttl=ttl, **limits_)
        token_id = issued["id"]
        watcher = supervision.Watcher(lambda: _revoke_quietly(state.api, found["subdomain"], token_id))
        try:
            setup = tools.setup(target_of(found, issued["plaintext"]), program, api or "")
            words = [command[0], *setup.arguments, *command[1:]]
            code = -supervision.interruption() or supervision.run(words, environment(os.environ, setup), mask)
        finally:
            _revoke(state.api, found["subdomain"], token_id)
            watcher.dismiss()
    supervision.end_as(code)


def issue(api: Api, subdomain: str, *, label: str, ttl: int, **restrictions: Any) -> dict[str, Any]:
    """Issue a token that lives `ttl` seconds. Returns its `id`, its `plaintext` and when it `expires_at`."""
    expires_at = datetime.now(UTC) + timedelta(seconds=ttl)
    body = {"label": label, "expires_in": ttl, **restrictions}
    token = api.call("POST", f"/endpoints/{subdomain}/tokens", json=body)["token"]
    return {"id": token["id"], "plaintext": token["plaintext"], "expires_at": expires_at.isoformat(timespec="seconds")}


def target_of(endpoint: Mapping[str, Any], token: str) -> Target:
    return Target(endpoint["url"], endpoint["provider"], endpoint["base_urls"], token)


def environment(inherited: Mapping[str, str], setup: Setup) -> dict[str, str]:
    """The variables of a tool: those of this process, without the access token and the launcher's."""
    removed = {"STRAKE_ACCESS_TOKEN", "STRAKE_MANAGE", *setup.removed}
    return {name: value for name, value in inherited.items() if name not in removed} | dict(setup.variables)


def _revoke(api: Api, subdomain: str, token_id: str) -> None:
    """Revoke a token, and say so if that fails. The exit code stays that of the tool."""
    for attempt in range(_ATTEMPTS):
        try:
            api.call("DELETE", f"/endpoints/{subdomain}/tokens/{segment(token_id)}", timeout=_SECONDS)
        except Missing:
            return  # the endpoint was deleted meanwhile
        except CliError as error:
            if attempt == _ATTEMPTS - 1:
                output.say(f"strake: Token {token_id} could not be revoked, and ends by its --ttl. {error}")
            else:
                time.sleep(attempt + 1)
        else:
            return


def _revoke_quietly(api: Api, subdomain: str, token_id: str) -> None:
    """The work of the watcher. It shares no connection with the process that was killed."""
    _revoke(api.reopened(), subdomain, token_id)
