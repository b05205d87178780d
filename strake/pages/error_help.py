"""How to fix each error of the proxy, for the page /docs/errors/. A test checks that no error code is missing."""

from __future__ import annotations

HELP = {
    "ambiguous_token": (
        "Your tool sends two different Strake tokens, often one from an environment variable and one from its "
        "settings. Remove the old one."
    ),
    "bad_path": (
        "The message says what the path contains. Two slashes in a row often come from a base URL that ends with a "
        'slash. The characters { } " < > ` and everything beyond ASCII must be percent-encoded. Segments of dots, '
        "such as .., and backslashes are never forwarded, in no encoding."
    ),
    "bad_request": (
        "The request is not well-formed HTTP/1.1. Most often the key was copied from a file with Windows line endings "
        "and ends in a carriage return, which curl and others send: remove it, for example with tr -d '\\r'. Or the "
        "URL contains a character beyond ASCII, which must be percent-encoded."
    ),
    "browser_refused": (
        "An endpoint is not a page: give its URL to a tool as the base URL. A page of another site may call it with "
        "fetch, in mode cors."
    ),
    "budget_exceeded": (
        "The token, or all children of its parent together, has used up its requests of the day or of the month. Days "
        "and months begin at midnight UTC, and the header retry-after says when. The owner can raise the limit on the "
        "endpoint's page. Requests through several server processes are counted with a delay of up to five seconds."
    ),
    "body_too_large": "Send less in one request, or ask the operator to raise STRAKE_MAX_BODY_MB.",
    "egress_proxy_failed": (
        "Strake reaches providers through a proxy of your company, and that one could not connect. Check the "
        "destination of a custom endpoint and the provider's status page. The log has the proxy's status."
    ),
    "egress_proxy_refused": (
        "Strake reaches providers through a proxy of your company, and that one refused. The log has its status: with "
        "407 or 401 the operator corrects the user name or the password in STRAKE_EGRESS_PROXY, otherwise the proxy "
        "must allow the destination on port 443. A proxy that allows names only needs STRAKE_EGRESS_PROXY_RESOLVES=1."
    ),
    "egress_proxy_unreachable": (
        "Strake reaches providers through a proxy of your company, and nothing answers there, or no HTTP proxy. The "
        "operator checks STRAKE_EGRESS_PROXY."
    ),
    "cloud_secret_refused": (
        "The cloud no longer accepts the endpoint's client secret or service account: it has expired, was deleted, or "
        "its application or account was disabled. The endpoint's page shows the cloud's code. Create another secret "
        "there, open the endpoint and choose Replace the key. A code of invalid_grant also means that the clock of "
        "Strake's machine is wrong."
    ),
    "endpoint_paused": "Open the endpoint in the dashboard and choose Resume.",
    "internal_error": (
        "This is a bug in Strake. Tell the operator when it happened. The log has the details, without your request. "
        "You can retry safely."
    ),
    "invalid_token": (
        "Send the endpoint's token, which begins with strk_, as the API key, and not the provider's key. The message "
        "says if it is incomplete or mistyped. A complete one is revoked, rotated, expired, or belongs to another "
        "endpoint. Callers are not told which. Compare its first characters with the list on the endpoint's page, and "
        "rotate it if in doubt."
    ),
    "key_replaced": "The owner replaced the provider key during your request. Send it again.",
    "method_not_allowed": "Strake does not forward TRACE and CONNECT. No tool needs them. Check what sends them.",
    "mints_credentials": (
        "The request asks the provider for a new credential, such as a client secret, an API key or a WebRTC call. "
        "It would go on working after you revoke the token. If your tool needs this, add a token with “May create "
        "credentials” and revoke the old one."
    ),
    "missing_token": (
        "Your tool sent no key. Put the token where the tool expects the provider's API key. Strake finds it in "
        "Authorization after any scheme, in the header that the endpoint sends the key in, and in ?key="
    ),
    "needs_key_again": (
        "The master key that encrypted the provider key is no longer in the keyring. Open the endpoint, choose Paste "
        "the key, and paste the provider key again."
    ),
    "no_endpoint": (
        "The base URL in your tool is the address of Strake itself. Use the URL on the endpoint's page. Some tools "
        "need /v1 behind it, and the page shows for each which."
    ),
    "loop": (
        "The destination of the endpoint leads back to Strake, perhaps through another proxy, so the request would go "
        "round in circles. Enter the provider's own address as the destination."
    ),
    "network_not_allowed": (
        "The token only works from certain networks, and the request came from another one. Tools that call from "
        "their own servers, like Cursor, need a token without this limit."
    ),
    "origin_not_allowed": (
        "The token lists the web pages that may use it, and the request came from another one. Add a token with the "
        "origin of this page, which is what its address begins with, such as https://app.example.com."
    ),
    "owner_busy": (
        "All endpoints of this owner together have reached the limit of concurrent requests. Wait for some to end. "
        "The operator can raise STRAKE_MAX_STREAMS_PER_PERSON."
    ),
    "path_not_allowed": (
        "The token only works for certain paths. The endpoint's page lists them. Add a token with other limits."
    ),
    "rate_limited": (
        "The token has used up its requests per minute. The header retry-after says when to retry. SDKs wait for it."
    ),
    "store_unavailable": (
        "Strake's database does not respond. Your token is valid. Try again in a moment, and tell the operator if the "
        "error persists."
    ),
    "token_server_unavailable": (
        "The server of the cloud that gives access tokens could not be reached or was in trouble. Strake asks again "
        "with the first request after ten seconds. If it persists, the operator should check that the machine may "
        "connect to login.microsoftonline.com or oauth2.googleapis.com."
    ),
    "token_busy": (
        "The token, or all children of its parent together, has reached its limit of concurrent requests. A stream "
        "counts until it ends. Wait for some to end. SDKs retry by themselves. The owner can change the limit on the "
        "endpoint's page. Each server process counts separately."
    ),
    "token_in_path": (
        "Your tool puts the token into the URL's path. Give it the endpoint's URL and the token as two settings."
    ),
    "too_many_at_once": (
        "The endpoint has reached its limit of concurrent requests. A stream counts until it ends. Wait for some to "
        "end. SDKs retry by themselves. The owner can change the limit on the endpoint's page, up to the operator's "
        "STRAKE_MAX_STREAMS. Each server process counts separately, so with several of them some requests may still "
        "get through."
    ),
    "too_many_connects": (
        "Strake opens at most 64 connections at once for each owner, which is enough for destinations that answer. So "
        "a destination of one of your endpoints probably does not. Send fewer requests to that one."
    ),
    "too_many_names": (
        "Strake looks up two host names at once for each owner. Names of your custom endpoints get no answer from DNS, "
        "and others wait for them. Correct or delete those endpoints."
    ),
    "too_many_refusals": (
        "A tool keeps sending a token that does not work now: revoked, expired, or of a paused endpoint. Stop the tool "
        "or give it another token. Once the token works again, Strake accepts it within a second."
    ),
    "too_many_wrong_tokens": (
        "A tool in your network keeps sending an invalid token. Stop it or give it a valid one. After a minute "
        "requests from your network work again."
    ),
    "unknown_endpoint": "Compare the URL with the one on the endpoint's page. The endpoint may have been deleted.",
    "upstream_forbidden": (
        "The hostname of the destination resolves to a private address. Change the destination, or ask the operator "
        "to allow it with STRAKE_ALLOWED_PRIVATE_UPSTREAMS."
    ),
    "upstream_reserved": (
        "The operator has opened the destination for certain people. Ask the operator to add you to its entry in "
        "STRAKE_ALLOWED_PRIVATE_UPSTREAMS."
    ),
    "upstream_idle": (
        "The provider accepted the request and sent nothing for the time that STRAKE_IDLE_SECONDS allows, ten minutes "
        "unless the operator set another. Try again, or check the provider's status page."
    ),
    "upstream_invalid": "The destination does not speak valid HTTP. Check the destination of a custom endpoint.",
    "upstream_certificate": (
        "Strake could not verify the certificate of the destination: not signed by a known authority, expired, or for "
        "another name. The host name in the destination must be the one in the certificate. For a certificate of your "
        "own authority, the operator sets STRAKE_CA_FILE to a file with its root certificate. The log has the reason."
    ),
    "upstream_connect_timeout": (
        "Nothing at the destination answered within ten seconds. Often a firewall drops the packets. If an HTTP "
        "proxy is the only way out of your network, the operator names it in STRAKE_EGRESS_PROXY. Strake does not read "
        "HTTPS_PROXY."
    ),
    "upstream_name_unknown": (
        "The host name of the destination does not exist, or the DNS server does not answer. Check it for typos. In "
        "a container, localhost and names of the host are not the same."
    ),
    "upstream_refused": (
        "Nothing listens at the address and port of the destination. Check the port, and if the server runs. In a "
        "container, localhost is the container itself."
    ),
    "upstream_tls": (
        "The destination and Strake could not agree on TLS: an old version, other ciphers, or a client certificate is "
        "required. The log has the reason."
    ),
    "upstream_unreachable": (
        "Strake could not connect to the provider, or the connection broke before a response. Check the provider's "
        "status page. For a custom endpoint check the destination. The log has the kind of failure."
    ),
    "upstream_wrong_scheme": (
        "Write the destination with http:// if the server speaks plain HTTP, as Ollama and other local servers do, and "
        "with https:// if it speaks TLS. The operator must allow plain HTTP with STRAKE_ALLOWED_PRIVATE_UPSTREAMS."
    ),
    "websocket_unsupported": "The provider accepts no WebSocket connections here. Use HTTP. Codex falls back to it.",
}

# What an owner reads in Activity. For other codes, the code itself in words is good enough.
_REASONS = {
    "budget_exceeded": "The requests of the day or month are used up",
    "browser_refused": "A browser asked for a page",
    "egress_proxy_failed": "The company's proxy could not connect",
    "egress_proxy_refused": "The company's proxy refused",
    "egress_proxy_unreachable": "The company's proxy did not answer",
    "invalid_token": "The token is revoked or expired",
    "internal_error": "A bug in Strake",
    "key_replaced": "The key was replaced meanwhile",
    "loop": "The destination is Strake itself",
    "mints_credentials": "The path hands out credentials",
    "needs_key_again": "The key cannot be opened",
    "network_not_allowed": "From a network that is not allowed",
    "origin_not_allowed": "From a web page that is not allowed",
    "owner_busy": "Too many requests at a time",
    "path_not_allowed": "A path that is not allowed",
    "rate_limited": "Too many requests a minute",
    "token_busy": "Too many requests at a time with this token",
    "too_many_at_once": "Too many requests at a time",
    "too_many_refusals": "Refused again, not checked again",
    "upstream_broken": "The provider broke the answer off",
    "upstream_certificate": "The provider's certificate is not valid",
    "upstream_connect_timeout": "The provider did not accept a connection",
    "upstream_forbidden": "The destination is a private address",
    "upstream_idle": "The provider was silent for too long",
    "upstream_invalid": "The provider's answer is not HTTP",
    "upstream_name_unknown": "The destination's name is unknown",
    "upstream_refused": "Nothing listens at the destination",
    "upstream_tls": "TLS with the provider failed",
    "upstream_unreachable": "The provider was not reached",
    "upstream_wrong_scheme": "The destination's scheme is wrong",
    "websocket_unsupported": "The provider has no WebSocket here",
}


def reason(code: str) -> str:
    """Return an error code in a few words."""
    return _REASONS.get(code) or code.replace("_", " ").capitalize()


def reasons() -> list[tuple[str, str]]:
    """Every error code with its reason, sorted by the reason."""
    return sorted(((code, reason(code)) for code in HELP), key=lambda pair: pair[1])
