"""Commands about endpoints."""

from __future__ import annotations

from typing import Any

import click

from strake_cli import output
from strake_cli.errors import CliError
from strake_cli.options import State, common, endpoint_argument, read_secret


@click.command()
@click.argument("provider")
@click.option("--label", default="", help="A name for the endpoint.")
@click.option("--destination", "destination_url", default="", metavar="URL", help="For custom and cloud providers.")
@click.option("--header-name", default="", help="For custom: the header that carries the key.")
@click.option("--header-template", default="", help="For custom: its value, with {{secret}} in place of the key.")
@click.option(
    "--kind",
    type=click.Choice(["static", "azure_entra", "google_service_account"]),
    default="static",
    help="What the key is.",
)
@click.option("--tenant", default="", help="For azure_entra.")
@click.option("--client-id", default="", help="For azure_entra.")
@click.option("--key-stdin", is_flag=True, help="Read the key from standard input instead of asking for it.")
@click.option("--unchecked", is_flag=True, help="Save the key even if the provider cannot be asked.")
@common
def connect(state: State, key_stdin: bool, **fields: Any) -> None:
    """Connect PROVIDER with its API key, and show the new endpoint's URL and token, once.

    PROVIDER is a slug such as openai, anthropic, gemini, custom or demo.
    """
    api = state.api  # before the key is asked for
    body = {name: value for name, value in fields.items() if value}
    body["api_key"] = read_secret(f"API key of {fields['provider']}", from_stdin=key_stdin)
    connected = api.call("POST", "/endpoints", json=body)
    if state.json:
        output.as_json(connected)
        return
    endpoint = connected["endpoint"]
    output.facts({"Endpoint": endpoint["subdomain"], "URL": endpoint["url"], "Token": connected["token"]["plaintext"]})
    output.say(f"The token is shown this once. Try: strake run {endpoint['subdomain']} -- YOUR-TOOL")


@click.command("endpoints")
@common
def list_endpoints(state: State) -> None:
    """List your endpoints."""
    found = state.api.endpoints()
    if state.json:
        output.as_json({"endpoints": found})
    elif found:
        rows = [(one["subdomain"], one["label"], one["provider"], _key_state(one), one["url"]) for one in found]
        output.table(("ENDPOINT", "NAME", "PROVIDER", "KEY", "URL"), rows)
    else:
        output.say("There is no endpoint yet. Connect one: strake connect openai")


@click.command()
@endpoint_argument
@common
def show(state: State, endpoint: str) -> None:
    """Show an endpoint and its tokens."""
    found = state.api.endpoint(endpoint)
    found |= state.api.call("GET", f"/endpoints/{found['endpoint']['subdomain']}/settings")
    if state.json:
        output.as_json(found)
        return
    one = found["endpoint"]
    output.facts(
        {
            "Endpoint": one["subdomain"],
            "Name": one["label"] or "-",
            "Provider": one["provider"],
            "URL": one["url"],
            "Destination": one["destination_url"],
            "State": "paused" if found["settings"]["paused_at"] else "active",
            "Key": _key_state(one),
            "Connected": output.time(one["created_at"]),
        }
    )
    output.console().print()
    token_table(found["tokens"])


def token_table(tokens: list[dict[str, Any]], *, with_ended: bool = False) -> None:
    live = [token for token in tokens if not token["revoked_at"] and not output.is_past(token["expires_at"])]
    ended = len(tokens) - len(live)
    rows = [
        (
            token["id"],
            token["label"],
            token["preview"],
            output.ago(token["last_used_at"]),
            f"revoked {output.time(token['revoked_at'])}" if token["revoked_at"] else output.time(token["expires_at"]),
        )
        for token in (tokens if with_ended else live)
    ]
    output.table(("TOKEN", "NAME", "STARTS WITH", "USED", "ENDS"), rows)
    if ended and not with_ended:
        output.say(f"{ended} more have ended: strake tokens list ENDPOINT --all")


@click.command()
@endpoint_argument
@click.argument("name")
@common
def rename(state: State, endpoint: str, name: str) -> None:
    """Give an endpoint another NAME."""
    _change(state, endpoint, {"label": name}, "Renamed.")


@click.command()
@endpoint_argument
@common
def pause(state: State, endpoint: str) -> None:
    """Refuse every request of an endpoint until it is resumed."""
    _change(state, endpoint, {"paused": True}, "Paused. Requests are refused, and those in flight end.")


@click.command()
@endpoint_argument
@common
def resume(state: State, endpoint: str) -> None:
    """End the pause of an endpoint."""
    _change(state, endpoint, {"paused": False}, "Resumed.")


@click.command()
@endpoint_argument
@click.option("--key-stdin", is_flag=True, help="Read the key from standard input instead of asking for it.")
@click.option("--unchecked", is_flag=True, help="Save the key even if the provider cannot be asked.")
@common
def replace_key(state: State, endpoint: str, key_stdin: bool, unchecked: bool) -> None:
    """Replace the provider key. The URL and the tokens stay."""
    subdomain = state.api.endpoint(endpoint)["endpoint"]["subdomain"]
    body = {"api_key": read_secret("New API key", from_stdin=key_stdin), "unchecked": unchecked}
    _done(state, state.api.call("POST", f"/endpoints/{subdomain}/credential/rotate", json=body), "Key replaced.")


@click.command()
@endpoint_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
def delete(state: State, endpoint: str, yes: bool) -> None:
    """Delete an endpoint with its sealed key and its tokens. There is no way back."""
    found = state.api.endpoint(endpoint)["endpoint"]
    subdomain = found["subdomain"]
    if not yes:
        question = f"Type {subdomain} to delete {found['label'] or 'this endpoint'} of {found['provider']}"
        if click.prompt(question, default="", show_default=False, err=True).strip() != subdomain:
            raise CliError("Nothing was deleted.", "not_confirmed")
    state.api.call("DELETE", f"/endpoints/{subdomain}")
    _done(state, {"deleted": subdomain}, "Deleted.")


def _change(state: State, name: str, change: dict[str, Any], message: str) -> None:
    subdomain = state.api.endpoint(name)["endpoint"]["subdomain"]
    _done(state, state.api.call("PATCH", f"/endpoints/{subdomain}", json=change), message)


def _done(state: State, answer: Any, message: str) -> None:
    if state.json:
        output.as_json(answer)
    else:
        output.say(message)


def _key_state(endpoint: dict[str, Any]) -> str:
    if endpoint.get("needs_key_again"):
        return "needs its key again"
    return "in place"
