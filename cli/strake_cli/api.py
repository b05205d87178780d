"""The management API of one Strake, and the device grant (RFC 8628)."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from strake_cli import __version__
from strake_cli.errors import CliError, Missing, NotSignedIn, Unreachable

CLIENT_ID = "strake-cli"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
_SECONDS = 30


class Api:
    """Calls of the management API. Every method that calls raises `CliError` or one of its subclasses."""

    def __init__(self, server: str, token: str = "") -> None:
        self.server, self._token = server, token
        headers = {"User-Agent": f"{CLIENT_ID}/{__version__}", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            self._client = httpx.Client(base_url=server, headers=headers, timeout=_SECONDS, follow_redirects=False)
        except (UnicodeEncodeError, httpx.InvalidURL):
            raise CliError("The access token or the address has characters that neither can have.") from None

    def reopened(self) -> Api:
        """The same with connections of its own, for another process."""
        return Api(self.server, self._token)

    def call(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> Any:
        """Return the body of the response, or None. `options` are those of httpx, such as `json` and `params`."""
        response = self._send(method, path, headers=headers, **options)
        if response.is_success:
            return _body(response) if response.content else None
        raise self._error(response)

    def endpoint(self, name: str) -> dict[str, Any]:
        """The endpoint with this subdomain, or else with this name, and its tokens."""
        if len(name) == 12 and name.isascii() and name.isalnum() and name == name.lower():
            try:
                return dict(self.call("GET", f"/endpoints/{name}"))
            except Missing:
                pass
        found = [endpoint for endpoint in self.endpoints() if endpoint["label"].casefold() == name.casefold()]
        if len(found) > 1:
            raise CliError(f"{len(found)} endpoints are called {name}. Use a subdomain; strake endpoints lists them.")
        if not found:
            raise Missing(f"There is no endpoint {name}. Run: strake endpoints", "not_found")
        return dict(self.call("GET", f"/endpoints/{found[0]['subdomain']}"))

    def endpoint_with_settings(self, name: str) -> dict[str, Any]:
        """The endpoint that `endpoint` finds, with what `…/settings` says: state, limit and base URLs."""
        found = self.endpoint(name)["endpoint"]
        return {**found, **self.call("GET", f"/endpoints/{found['subdomain']}/settings")["settings"]}

    def endpoints(self) -> list[dict[str, Any]]:
        return list(self.pages("/endpoints", "endpoints"))

    def pages(self, path: str, name: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Every row of a list, on all of its pages."""
        rows: list[dict[str, Any]] = []
        query = dict(params or {})
        while True:
            body = self.call("GET", path, params=query)
            rows += body[name]
            if not body.get("next"):
                return rows
            query["cursor"] = body["next"]

    def device_code(self, scope: str) -> dict[str, Any]:
        """Start a device grant (RFC 8628, section 3.1)."""
        form = {"client_id": CLIENT_ID, "device_name": platform.node()[:100], "scope": scope}
        response = self._send("POST", "/device/code", data=form)
        if response.status_code == 404:
            raise CliError("This Strake is too old for strake login. Use: strake login --token")
        return dict(self._oauth(response))

    def device_token(self, device_code: str) -> dict[str, Any]:
        """Ask for the access token once (section 3.4). The body has `error` while there is none."""
        form = {"grant_type": GRANT_TYPE, "device_code": device_code, "client_id": CLIENT_ID}
        return dict(self._oauth(self._send("POST", "/device/token", data=form), pending=True))

    def _oauth(self, response: httpx.Response, *, pending: bool = False) -> dict[str, Any]:
        body = _body(response)
        if response.is_success or (pending and isinstance(body.get("error"), str)):
            return body
        if isinstance(body.get("error"), str):
            raise CliError(str(body.get("error_description") or body["error"]), body["error"])
        raise self._error(response)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._client.request(method, f"/api/v1{path}", **options)
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.server} does not answer: {reason(error)}", "unreachable") from None

    def _error(self, response: httpx.Response) -> CliError:
        problem = _body(response).get("error")
        if not isinstance(problem, dict):
            message = f"{self.server} answered {response.status_code}, and not as Strake does. Is the address right?"
            return Unreachable(message, "not_strake")
        code, message = str(problem.get("code", "failed")), str(problem.get("message", "No reason given."))
        if response.status_code == 401:
            again = f"Strake does not accept your access token. Run: strake login {self.server}"
            return NotSignedIn(again, code)
        kind = {404: Missing, 503: Unreachable}.get(response.status_code, CliError)
        return kind(message, code)


def reason(error: Exception) -> str:
    """One line about an error of the network. httpx puts no header and no body into it."""
    return (str(error) or type(error).__name__).splitlines()[0]


def segment(text: str) -> str:
    """A text as one segment of a path."""
    return quote(text, safe="")


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
