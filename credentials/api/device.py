"""The device grant (RFC 8628): how a program without a browser, such as the command line, gets an access token.

Requests are forms, and errors have the body of RFC 6749, section 5.2, unlike those of the other calls.
"""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from ninja import Field, Form, Router, Schema, Status

from accounts import audit, device_grants
from accounts.errors import AccountsError, DeviceGrantError, InvalidScope, QuotaReached, TooManyRequests
from credentials.api.schemas import ErrorAnswer

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
REFUSED = frozenset({400, 429})
ERRORS = frozenset({411, 413, 503})

router = Router(auth=None)


class DeviceCodeRequest(Schema):
    client_id: str = Field(
        "", description="What the program calls itself. There is no registration.", examples=["my-program"]
    )
    device_name: str = Field(
        "", description="The machine that it runs on. The person sees it too.", examples=["laptop"]
    )
    scope: str = Field(
        "",
        description="Scopes of the access token, separated by spaces. By default all of them.",
        examples=["read tokens"],
    )


class DeviceCode(Schema):
    device_code: str
    user_code: str = Field(description="Show it to the person, together with verification_uri.")
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    interval: int = Field(description="Seconds to wait between two calls for the token.")


class DeviceTokenRequest(Schema):
    grant_type: str = Field("", description=f"{GRANT_TYPE}.", examples=[GRANT_TYPE])
    device_code: str = ""
    client_id: str = Field("", description="As in the request for the code.", examples=["my-program"])


class DeviceToken(Schema):
    access_token: str = Field(description="Shown this once.")
    token_type: str
    expires_in: int
    scope: str


class OAuthError(Schema):
    error: str = Field(description="A code of RFC 8628, section 3.5, or of RFC 6749, section 5.2.")
    error_description: str


@router.post(
    "/code", response={200: DeviceCode, REFUSED: OAuthError, ERRORS: ErrorAnswer}, summary="Ask for a device code"
)
def device_code(request: HttpRequest, response: HttpResponse, body: Form[DeviceCodeRequest]) -> Status[Schema]:
    """A form. Show the user code to the person, and ask for the token until they have decided."""
    if _repeats(request) or not 0 < len(body.client_id) <= device_grants.MAX_NAME_LENGTH:
        return _invalid(f"Send client_id once, with 1 to {device_grants.MAX_NAME_LENGTH} characters.")
    try:
        requested = device_grants.request(
            client=body.client_id, device=body.device_name, scope=body.scope, ip=audit.request_ip(request)
        )
    except (InvalidScope, TooManyRequests) as error:
        return _refusal(response, error)
    page = settings.STRAKE_BASE_URL + reverse("accounts:device")
    return Status(
        200,
        DeviceCode(
            device_code=requested.device_code,
            user_code=requested.user_code,
            verification_uri=page,
            verification_uri_complete=f"{page}?user_code={requested.user_code}",
            expires_in=int(device_grants.LIFETIME.total_seconds()),
            interval=requested.grant.interval,
        ),
    )


@router.post(
    "/token",
    response={200: DeviceToken, REFUSED: OAuthError, ERRORS: ErrorAnswer},
    summary="Exchange a device code for an access token",
)
def device_token(request: HttpRequest, response: HttpResponse, body: Form[DeviceTokenRequest]) -> Status[Schema]:
    """A form. Until the person has decided, the error is authorization_pending."""
    if _repeats(request) or not body.device_code or not body.client_id:
        return _invalid("Send grant_type, device_code and client_id, each once.")
    if body.grant_type != GRANT_TYPE:
        return Status(
            400, OAuthError(error="unsupported_grant_type", error_description=f"The grant type is {GRANT_TYPE}.")
        )
    try:
        created = device_grants.exchange(
            device_code=body.device_code, client=body.client_id, ip=audit.request_ip(request)
        )
    except (DeviceGrantError, TooManyRequests, QuotaReached) as error:
        return _refusal(response, error)
    if created.token.expires_at is None:
        raise TypeError("Access tokens of device grants expire.")
    return Status(
        200,
        DeviceToken(
            access_token=created.plaintext,
            token_type="Bearer",  # noqa: S106
            expires_in=round((created.token.expires_at - timezone.now()).total_seconds()),
            scope=" ".join(created.token.scopes),
        ),
    )


def _repeats(request: HttpRequest) -> bool:
    """RFC 6749, section 3.2: no parameter may be repeated."""
    return any(len(values) > 1 for _, values in request.POST.lists())


def _invalid(description: str) -> Status[Schema]:
    return Status(400, OAuthError(error="invalid_request", error_description=description))


def _refusal(response: HttpResponse, error: AccountsError) -> Status[Schema]:
    if isinstance(error, TooManyRequests):
        response.headers["Retry-After"] = str(error.retry_after)
        return Status(429, OAuthError(error="slow_down", error_description=str(error)))
    code = "invalid_scope" if isinstance(error, InvalidScope) else "access_denied"
    if isinstance(error, DeviceGrantError):
        code = error.code
    return Status(400, OAuthError(error=code, error_description=str(error)))
