"""What to do about each error code of the proxy, for the page /docs/errors/. A test keeps it complete."""

from __future__ import annotations

ADVICE = {
    "ambiguous_token": (
        "Your tool sends two different Strake tokens, often one from an environment variable and one from its "
        "settings. Remove the old one."
    ),
    "bad_path": (
        "Look at the base URL in your tool: a path with .. in it or with two slashes in a row is not forwarded. "
        "The base URL must not end with a slash."
    ),
    "body_too_large": ("Send less in one request, or ask the operator to raise STRAKE_MAX_BODY_MB."),
    "endpoint_paused": ("Open the endpoint in the dashboard and choose Resume."),
    "internal_error": (
        "A defect in Strake. Tell the operator when it happened; the log has the details, without your request. "
        "Trying again is safe."
    ),
    "invalid_token": (
        "The token is mistyped, revoked, rotated, expired, or belongs to another endpoint; which of these is not "
        "told to callers. Compare its first characters with the list on the endpoint's page, and rotate it if in "
        "doubt."
    ),
    "method_not_allowed": ("TRACE and CONNECT are not forwarded. No tool needs them; look at what sends the request."),
    "missing_token": ("Your tool sent no key at all. Put the token where the tool expects the provider's API key."),
    "needs_key_again": (
        "The master key that sealed the provider key is gone from the keyring. Open the endpoint, choose Paste the "
        "key, and paste the provider key again."
    ),
    "network_not_allowed": (
        "The token is limited to networks, and the call came from another one. Tools that call from their own "
        "servers, like Cursor, need a token without this limit."
    ),
    "path_not_allowed": (
        "The token is limited to paths. The endpoint's page shows which; add a token with other limits."
    ),
    "rate_limited": (
        "The token has used up its requests per minute. The header retry-after says when to go on; SDKs wait by "
        "themselves."
    ),
    "store_unavailable": (
        "Strake's database does not answer. Your token is fine. Try again in a moment; tell the operator if it lasts."
    ),
    "too_many_at_once": (
        "As many requests of this endpoint are under way as it may have; a stream counts until it ends. Wait for some "
        "to end; SDKs try again by themselves. The owner can change the limit on the endpoint's page, up to the "
        "operator's STRAKE_MAX_STREAMS. Each server process counts by itself, so with several of them some requests "
        "may still get through."
    ),
    "too_many_wrong_tokens": (
        "Some tool in your network keeps sending a token that does not work. Stop it or give it the right one; after a "
        "minute everybody there can go on."
    ),
    "unknown_endpoint": ("Compare the address with the one on the endpoint's page. It may have been deleted."),
    "upstream_forbidden": (
        "The destination's name leads to a private address. Change the destination, or ask the operator to open it "
        "with STRAKE_ALLOWED_PRIVATE_UPSTREAMS."
    ),
    "upstream_idle": (
        "The provider took the request and sent nothing for ten minutes. Try again, or look at the provider's "
        "status page."
    ),
    "upstream_invalid": (
        "What answers at the destination does not speak HTTP as it should. Check the destination of a custom endpoint."
    ),
    "upstream_unreachable": (
        "No connection to the provider, or it broke before an answer. Look at the provider's status page; for a "
        "custom endpoint check the destination."
    ),
    "websocket_unsupported": (
        "The provider takes no WebSocket connections here. Use HTTP; Codex falls back by itself."
    ),
}
