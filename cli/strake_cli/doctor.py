"""`strake doctor`: the way of a request to a provider, step by step, and what to do where it ends."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import click
import httpx

from strake_cli import output, tools
from strake_cli.api import Api, reason, segment
from strake_cli.options import State, common, endpoint_argument, read_secret
from strake_cli.running import issue

_SECONDS = 20
_TTL = 60
# What lists the models, behind the base URL of each API.
_MODELS = {tools.OPENAI: "/models", tools.ANTHROPIC: "/v1/models", tools.GEMINI: "/v1beta/models"}
_TOKEN_ERRORS = {
    "missing_token", "invalid_token", "ambiguous_token", "token_in_path", "bad_request", "bad_path",
    "too_many_wrong_tokens", "unknown_endpoint", "no_endpoint",
}  # fmt: skip
_PROVIDER_STATUSES = {502, 503, 504, 508}


@dataclass(frozen=True)
class Step:
    """One step. `advice` says what to do if it failed."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


@click.command()
@endpoint_argument
@click.option("--token-stdin", is_flag=True, help="Try this token of the endpoint instead of a new one.")
@common
def doctor(state: State, endpoint: str, token_stdin: bool) -> None:
    """Call ENDPOINT as a tool does, step by step, and say what to do at the first step that fails.

    It reads the provider's list of models, which costs nothing, with a token that lives a minute.
    """
    token = read_secret("Token", from_stdin=True) if token_stdin else ""
    done: list[Step] = []
    for step in _steps(state.api, endpoint, token):
        done.append(step)
        if not state.json:
            _show(step)
        if not step.ok:
            break
    if state.json:
        output.as_json({"steps": [asdict(step) for step in done]})
    if not done[-1].ok:
        sys.exit(1)


def _show(step: Step) -> None:
    console = output.console()
    console.print("✓" if step.ok else "✗", style="green" if step.ok else "bold red", end=" ")
    console.print(f"{step.name:<9}", output.plain(step.detail))
    if step.advice:
        console.print(" " * 11, output.plain(step.advice))


def _steps(api: Api, name: str, token: str) -> Iterator[Step]:
    found = api.endpoint_with_settings(name)
    yield _endpoint_step(found, is_paused=bool(found["paused_at"]))
    parts = urlsplit(found["url"])
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    yield _dns_step(host, port)
    yield _tls_step(host, port, is_https=parts.scheme == "https")
    with httpx.Client(timeout=_SECONDS) as client:
        yield _path_step(client, found["url"])
        if token:
            yield from _request_steps(client, found, token)
            return
        issued = issue(api, found["subdomain"], label="strake doctor", ttl=_TTL)
        try:
            yield from _request_steps(client, found, issued["plaintext"])
        finally:
            api.call("DELETE", f"/endpoints/{found['subdomain']}/tokens/{segment(issued['id'])}")


def _endpoint_step(found: dict[str, Any], *, is_paused: bool) -> Step:
    subdomain, named = found["subdomain"], f"{found['subdomain']} of {found['provider']}"
    if found.get("needs_key_again"):
        return Step("endpoint", False, f"{named} needs its key again", f"Run: strake replace-key {subdomain}")
    if is_paused:
        return Step("endpoint", False, f"{named} is paused", f"Run: strake resume {subdomain}")
    if found.get("renewal_failure"):
        advice = f"Replace the cloud's secret: strake replace-key {subdomain}"
        return Step("endpoint", False, f"the cloud said {found['renewal_failure']}", advice)
    return Step("endpoint", True, f"{named}, active")


def _dns_step(host: str, port: int) -> Step:
    try:
        addresses = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as error:
        advice = "The name needs a DNS record that leads to Strake. With a wildcard domain, one for *.DOMAIN."
        return Step("DNS", False, f"{host}: {error.strerror or 'not found'}", advice)
    return Step("DNS", True, f"{host} is {', '.join(addresses)}")


def _tls_step(host: str, port: int, *, is_https: bool) -> Step:
    kind = "TLS" if is_https else "connect"
    try:
        with socket.create_connection((host, port), _SECONDS) as connection:
            if not is_https:
                return Step(kind, True, f"port {port} answers, plain http on this machine")
            with ssl.create_default_context().wrap_socket(connection, server_hostname=host) as secured:
                ends = str((secured.getpeercert() or {}).get("notAfter", ""))
                version = secured.version()
    except ssl.SSLCertVerificationError as error:
        advice = "The certificate must cover this name and come from an authority that this machine trusts."
        return Step(kind, False, error.verify_message, advice)
    except OSError as error:
        advice = "Is Strake running, and does a firewall or a proxy let this port through?"
        return Step(kind, False, f"port {port}: {error.strerror or error}", advice)
    days = (datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC) - datetime.now(UTC)).days if ends else 0
    return Step(kind, True, f"{version}, certificate valid for {days} days")


def _path_step(client: httpx.Client, url: str) -> Step:
    """Without a token, Strake says so. Anything else is not the endpoint."""
    try:
        response = client.get(url)
    except httpx.HTTPError as error:
        return Step("base URL", False, f"{url}: {reason(error)}", "Does a proxy in front of Strake end the request?")
    code = response.headers.get("x-strake-error", "")
    if code == "missing_token":
        return Step("base URL", True, f"{url} is this endpoint")
    if code:
        return Step("base URL", False, f"Strake says {code}", _said(response))
    advice = "The proxy in front must pass this address to Strake unchanged, with its Host header."
    return Step("base URL", False, f"{url} answers {response.status_code}, and it is not Strake", advice)


def _request_steps(client: httpx.Client, found: dict[str, Any], token: str) -> Iterator[Step]:
    url, headers = _models_call(found, token)
    try:
        response = client.get(url, headers=headers)
    except httpx.HTTPError as error:
        yield Step("token", False, reason(error), "Try again. If it stays, look at Strake's log.")
        return
    code = response.headers.get("x-strake-error", "")
    help_page = f"{_said(response)} More: {urlsplit(url).scheme}://{urlsplit(url).netloc}/docs/errors/#{code}"
    if code in _TOKEN_ERRORS:
        yield Step("token", False, f"Strake says {code}", help_page)
        return
    yield Step("token", True, "accepted")
    if code and response.status_code not in _PROVIDER_STATUSES:
        yield Step("limits", False, f"Strake says {code}", help_page)
        return
    yield Step("limits", True, "none is in the way")
    if code:
        yield Step("provider", False, f"Strake says {code}", help_page)
        return
    yield _provider_step(response.status_code, found)


def _models_call(found: dict[str, Any], token: str) -> tuple[str, dict[str, str]]:
    api, base = next(iter(found["base_urls"].items()), ("", found["url"]))
    headers = {"Authorization": f"Bearer {token}"}
    if api == tools.ANTHROPIC:
        headers["anthropic-version"] = "2023-06-01"
    return base + _MODELS.get(api, ""), headers


def _provider_step(status: int, found: dict[str, Any]) -> Step:
    said = f"{found['provider']} answers {status}"
    if status in {401, 403}:
        advice = f"The provider refuses its key. Replace it: strake replace-key {found['subdomain']}"
        return Step("provider", False, said, advice)
    if status == 429:
        return Step("provider", False, said, "The provider's own limit is reached. Wait, or ask the provider for more.")
    if status >= 500:
        return Step("provider", False, said, "The provider has a problem. Look at its status page.")
    if status >= 400:
        return Step("provider", True, f"{said}: it has no list of models there, but it is reached")
    return Step("provider", True, said)


def _said(response: httpx.Response) -> str:
    """The message of Strake's own error, in the form of any SDK."""
    try:
        problem = response.json()["error"]
        return str(problem["message"] if isinstance(problem, dict) else problem)
    except (ValueError, KeyError, TypeError):
        return "Look at the endpoint's page."
