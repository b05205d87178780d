"""Signing in and out."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import webbrowser
from contextlib import suppress
from typing import Any

import click

from strake_cli import config, output
from strake_cli.api import Api, segment
from strake_cli.errors import CliError, Missing, NotSignedIn
from strake_cli.options import State, common, read_secret

SCOPES = ("read", "tokens", "endpoints")


@click.command()
@click.argument("url", required=False)
@click.option("--token", "with_token", is_flag=True, help="Enter an access token, or pipe it to standard input.")
@click.option("--browser/--no-browser", default=None, help="Open a browser or not. By default, if there is one.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="Ask for less than everything.")
@common
def login(state: State, url: str | None, with_token: bool, browser: bool | None, scopes: tuple[str, ...]) -> None:
    """Sign in: confirm a code in the browser, or enter an access token.

    URL is the address of Strake. Next to a checkout that serves on this machine, you can also confirm in the terminal.
    """
    state.chosen = url or state.chosen
    if with_token:
        token = read_secret("Access token", from_stdin=False)
    else:
        token = _device_grant(state, " ".join(scopes), browser)
    email = Api(state.server, token).call("GET", "/me")["user"]["email"]
    with config.changed() as stored:
        stored["server"] = state.server
        stored.setdefault("servers", {})[state.server] = {"access_token": token, "email": email}
        stored.get("tokens", {}).pop(state.server, None)  # they may be another person's
    if state.json:
        output.as_json({"server": state.server, "email": email})
    else:
        output.say(f"Signed in to {state.server} as {email}.")


@click.command()
@click.option("--forget", is_flag=True, help="Only delete it here, for a server that is gone.")
@common
def logout(state: State, forget: bool) -> None:
    """Revoke this command line's access token, and the short-lived tokens that it keeps."""
    stored = config.read()
    entry = stored.get("servers", {}).get(state.server)
    if entry is None:
        raise CliError(f"You are not signed in to {state.server}.", "not_signed_in")
    if not forget:
        api = Api(state.server, entry["access_token"])
        for subdomain, kept in stored.get("tokens", {}).get(state.server, {}).items():
            with suppress(Missing):
                api.call("DELETE", f"/endpoints/{subdomain}/tokens/{segment(kept['id'])}")
        with suppress(NotSignedIn):  # it has expired or was revoked elsewhere
            api.call("DELETE", "/access-tokens/current")
    with config.changed() as current:
        for name in ("servers", "tokens"):
            current.get(name, {}).pop(state.server, None)
        if current.get("server") == state.server:
            del current["server"]
    if state.json:
        output.as_json({"server": state.server, "revoked": not forget})
    else:
        output.say(f"Signed out of {state.server}." if not forget else "Forgotten here. The token is not revoked.")


@click.command()
@common
def whoami(state: State) -> None:
    """Show the server and the account that commands act for."""
    answer: dict[str, Any] = {"server": state.server, **state.api.call("GET", "/me")}
    if state.json:
        output.as_json(answer)
    else:
        output.facts({"Server": state.server, "Account": answer["user"]["email"]})


def _device_grant(state: State, scope: str, browser: bool | None) -> str:
    """Show a code, wait until somebody has decided in a browser, and return the access token (RFC 8628)."""
    api = Api(state.server)
    grant = api.device_code(scope)
    code, address = grant["user_code"], grant["verification_uri_complete"]
    if browser is None and _confirm_here(state.server, code):
        pass
    elif browser is not False and _open_browser(address, forced=browser is True):
        output.say(f"Your code is {code}. Compare it with the page that opens, and allow it there.\n{address}")
    else:
        output.say(f"Open {grant['verification_uri']} and enter the code {code}\nor open {address}")
    return _wait(api, grant)


def _wait(api: Api, grant: dict[str, Any]) -> str:
    interval, end = int(grant.get("interval", 5)), time.monotonic() + int(grant["expires_in"])
    while time.monotonic() < end:
        answer = api.device_token(grant["device_code"])
        if "access_token" in answer:
            return str(answer["access_token"])
        if answer["error"] == "slow_down":
            interval += 5
        elif answer["error"] == "access_denied":
            raise CliError(str(answer.get("error_description") or "The request was denied."), "access_denied")
        elif answer["error"] != "authorization_pending":
            raise CliError("The code is not valid any more. Run strake login again.", answer["error"])
        time.sleep(interval)
    raise CliError("Nobody confirmed the code in time. Run strake login again.", "expired_token")


def _confirm_here(server: str, code: str) -> bool:
    """On the machine of `make run`, let the person confirm with one key: who runs manage.py there may do everything."""
    manage = os.environ.get("STRAKE_MANAGE")
    if not (manage and sys.stdin.isatty() and server == config.DEFAULT_SERVER.format(port=config.local_port())):
        return False
    if not click.confirm(f"This Strake runs on this machine. Sign in to {server}?", default=True, err=True):
        return False
    command = [*shlex.split(manage), "allow_device", "--code-stdin"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, check=False)
    if done.returncode:
        output.say(f"That did not work: {done.stderr.strip()[:300]}")
    return done.returncode == 0


def _open_browser(address: str, *, forced: bool) -> bool:
    has_screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not forced and (os.environ.get("SSH_CONNECTION") or not (has_screen or os.environ.get("BROWSER"))):
        return False
    with suppress(webbrowser.Error):
        return webbrowser.open(address)
    return False
