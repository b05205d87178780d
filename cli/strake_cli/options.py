"""What several commands share: the state, their options, and the types of values."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from strake_cli import config
from strake_cli.api import Api
from strake_cli.errors import CliError

Command = TypeVar("Command", bound=Callable[..., Any])
MAX_SECRET = 65536  # the key file of a service account has 2 kB


@dataclass
class State:
    """The options that every command has."""

    chosen: str | None = None
    json: bool = False

    @cached_property
    def server(self) -> str:
        return config.server(self.chosen)

    @cached_property
    def api(self) -> Api:
        """The API with the person's access token. Raises `NotSignedIn`."""
        return Api(self.server, config.access_token(self.server))


pass_state = click.make_pass_decorator(State, ensure=True)


def common(command: Command) -> Command:
    """Add `--server` and `--json`, and pass the state."""

    def remember_server(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value:
            context.ensure_object(State).chosen = value

    def remember_json(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.ensure_object(State).json = True

    command = click.option("--json", is_flag=True, expose_value=False, callback=remember_json, help="Print JSON.")(
        command
    )
    command = click.option(
        "--server", metavar="URL", expose_value=False, callback=remember_server, help="Address of Strake."
    )(command)
    return pass_state(command)  # type: ignore[return-value]


class Seconds(click.ParamType[int]):
    """A time like 90s, 30m, 8h or 30d, as a number of seconds."""

    name = "time"
    _units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", value.strip())
        seconds = int(found[1]) * self._units[found[2]] if found else 0
        if not 1 <= seconds <= 3650 * 86400:
            self.fail("Write a time like 90s, 30m, 8h or 30d, at most 3650d.", param, ctx)
        return seconds


SECONDS = Seconds()


class Count(click.ParamType[int]):
    """A number from 1 on, or "none" as 0, which ends a limit."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int) or value == "none":
            return 0 if value == "none" else value
        if not re.fullmatch(r"[1-9][0-9]{0,8}", value):
            self.fail("Write a number from 1 on, or none.", param, ctx)
        return int(value)


COUNT = Count()


def _complete_endpoint(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    try:
        found = Api(config.server(None), config.access_token(config.server(None))).endpoints()
    except CliError:
        return []
    return [
        CompletionItem(endpoint["subdomain"], help=endpoint["label"])
        for endpoint in found
        if endpoint["subdomain"].startswith(incomplete)
    ]


def endpoint_argument(command: Command) -> Command:
    return click.argument("endpoint", metavar="ENDPOINT", shell_complete=_complete_endpoint)(command)


def limits(command: Command) -> Command:
    """Add the options that limit a token."""
    for option in reversed(
        (
            click.option("--rpm", "requests_per_minute", type=COUNT, help="Requests a minute."),
            click.option("--per-day", "requests_per_day", type=COUNT, help="Requests a day."),
            click.option("--per-month", "requests_per_month", type=COUNT, help="Requests a month."),
            click.option("--concurrent", "concurrent_requests", type=COUNT, help="Requests at a time."),
            click.option(
                "--paths",
                "allowed_paths",
                multiple=True,
                metavar="PATH",
                help="A path that is allowed, such as 'POST /v1/chat/*'. May be repeated.",
            ),
            click.option(
                "--networks", "allowed_networks", multiple=True, metavar="CIDR", help="A network that is allowed."
            ),
            click.option(
                "--origins", "allowed_origins", multiple=True, metavar="URL", help="A web origin that is allowed."
            ),
        )
    ):
        command = option(command)
    return command


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a new token that were given, as the API takes them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value}


def changed(values: dict[str, Any]) -> dict[str, Any]:
    """The same for a token that is there: a limit of `none` becomes null, or an empty list."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, tuple):
            if value:
                found[name] = [] if value == ("none",) else list(value)
        elif value is not None:
            found[name] = value if value != 0 else None
    return found


def read_secret(prompt: str, *, from_stdin: bool) -> str:
    """Read a secret without an echo, or from standard input. It is never an argument."""
    if from_stdin or not sys.stdin.isatty():
        secret = sys.stdin.read(MAX_SECRET).strip()
    else:
        secret = str(click.prompt(prompt, hide_input=True, err=True)).strip()
    if not secret:
        raise CliError("Nothing was entered.", "empty")
    return secret
