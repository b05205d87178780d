"""The request and response bodies of the management API, from which Ninja generates the OpenAPI document."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from django.utils import timezone
from ninja import Field, Schema
from pydantic import BeforeValidator, ConfigDict, SecretStr, model_validator

from credentials.places import MAX_PLACES
from credentials.token_limits import LIMIT_NAMES, MAX_BUDGET, MAX_ENTRIES, MAX_REQUESTS_PER_MINUTE

TEN_YEARS = 10 * 365 * 86400
NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"

Label = Annotated[str, Field(max_length=100, pattern=NO_CONTROLS, description="A name to recognise it by.")]
Text = Annotated[str, Field(max_length=512, pattern=NO_CONTROLS)]
ApiKey = Annotated[SecretStr, Field(description="The provider's key. Sealed at once, never shown.")]
Entry = Annotated[str, Field(max_length=300, pattern=NO_CONTROLS)]
TokenIdText = Annotated[str, Field(pattern=r"^ctok_[0-9A-Za-z]{1,27}$")]
_RFC_3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9:]{8}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})", re.ASCII)


def _moment(value: Any) -> datetime:
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError("Write a time with its zone, such as 2026-12-31T23:59:59Z.")
    return datetime.fromisoformat(value.upper())


Moment = Annotated[datetime, BeforeValidator(_moment), Field(strict=False)]


class Body(Schema):
    """Base of request bodies. Unknown fields and other types than the declared ones are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewPlace(Body):
    position: Literal["header", "query"]
    name: Annotated[str, Field(max_length=64, pattern=NO_CONTROLS)]
    value: Annotated[str, Field(max_length=256, pattern=NO_CONTROLS)] = Field(
        description="{{secret}} stands for the key and {{secret:base64}} for its Base64 form. Without, a constant."
    )


class NewEndpoint(Body):
    provider: Text = Field(description="Slug of a provider, e.g. openai or custom.", examples=["openai"])
    api_key: ApiKey
    label: Label = ""
    destination_url: Text = Field(
        "", description="For providers without one fixed destination, such as custom, mcp and bedrock. Only https."
    )
    header_name: Text = Field("", description="For custom: the header that carries the key.")
    header_template: Text = Field("", description="For custom: its value, with {{secret}} in place of the key.")
    places: list[NewPlace] = Field(
        default_factory=list,
        max_length=MAX_PLACES,
        description="For custom: further headers and query parameters. If one of them holds the key and both header "
        "fields are empty, the key is in no other header.",
        examples=[[{"position": "query", "name": "api_key", "value": "{{secret}}"}]],
    )
    kind: Literal["static", "azure_entra", "google_service_account"] = Field(
        "static",
        description="What api_key is: a key that is sent itself, the client secret of an Entra ID application "
        "(azure-openai), or the JSON key file of a service account as a string (vertex).",
    )
    tenant: Text = Field("", description="For azure_entra: the directory (tenant) ID.")
    client_id: Text = Field("", description="For azure_entra: the application (client) ID.")
    unchecked: bool = Field(False, description="Save the key even if the provider can't be reached to check it.")


class TokenLimits(Body):
    """The limits of a token. `limits` has those that the body names, so that a change leaves the others as they are."""

    expires_in: int | None = Field(None, ge=1, le=TEN_YEARS, description="Seconds until the token ends by itself.")
    expires_at: Moment | None = Field(
        None, description="The same as a time. Not together with expires_in.", examples=["2027-01-31T12:00:00Z"]
    )
    requests_per_minute: int | None = Field(None, ge=1, le=MAX_REQUESTS_PER_MINUTE)
    requests_per_day: int | None = Field(
        None, ge=1, le=MAX_BUDGET, description="In a day of UTC. Counted from the request log, up to 5 seconds late."
    )
    requests_per_month: int | None = Field(
        None, ge=1, le=MAX_BUDGET, description="In a month of UTC. Counted from the request log, up to 5 seconds late."
    )
    concurrent_requests: int | None = Field(None, ge=1, description="In flight at a time, in each server process.")
    allowed_paths: list[Entry] = Field(
        default_factory=list, max_length=MAX_ENTRIES, examples=[["POST /v1/chat/completions"]]
    )
    allowed_networks: list[Entry] = Field(default_factory=list, max_length=MAX_ENTRIES, examples=[["192.0.2.0/24"]])
    allow_minting: bool = Field(
        False, description="Allow calls that create credentials at the provider. These outlive the token."
    )
    allowed_origins: list[Entry] = Field(
        default_factory=list,
        max_length=MAX_ENTRIES,
        description="Origins of web pages that may use the token. Empty: no CORS headers.",
        examples=[["https://app.example.com"]],
    )

    @model_validator(mode="after")
    def _one_expiry(self) -> Self:
        if self.expires_in is not None and self.expires_at is not None:
            raise ValueError("Give expires_in or expires_at, not both.")
        return self

    def limits(self) -> Any:
        """The arguments for `services.issue_token` and `services.update_token`."""
        found = {name: getattr(self, name) for name in LIMIT_NAMES if name in self.model_fields_set}
        if "expires_in" in self.model_fields_set and self.expires_at is None:
            seconds = self.expires_in
            found["expires_at"] = None if seconds is None else timezone.now() + timedelta(seconds=seconds)
        return found


class NewToken(TokenLimits):
    label: Label = ""
    parent_id: TokenIdText | None = Field(
        None, description="Makes it a child of this token: it ends with its parent, and the limits of both apply."
    )


class TokenChanges(TokenLimits):
    label: Label = ""


class TokenCopy(Body):
    label: Label = Field("", description="Empty: the label of the other token.")


class TokensToRevoke(Body):
    ids: list[TokenIdText] | None = Field(
        None, max_length=1000, description="The tokens to revoke. Without it, every token of the endpoint."
    )


class EndpointChanges(Body):
    label: Label = Field("", description="Empty: the name of the provider.")
    paused: bool = Field(False, description="A paused endpoint refuses every request.")
    max_streams: int | None = Field(
        None, ge=1, description="Concurrent requests in each server process. null: only the installation's limit."
    )


class NewKey(Body):
    api_key: ApiKey
    unchecked: bool = Field(False, description="Save the key even if the provider can't be reached to check it.")


class NewDestination(NewKey):
    destination_url: Text = Field(examples=["https://api.example.com/v1"])
    header_name: Text = Field("", description="For custom: the header that carries the key.")
    header_template: Text = Field("", description="For custom: its value, with {{secret}} in place of the key.")
    places: list[NewPlace] = Field(default_factory=list, max_length=MAX_PLACES, description="As for a new endpoint.")


class User(Schema):
    email: str


class Me(Schema):
    user: User


class EndpointSummary(Schema):
    subdomain: str
    label: str
    provider: str
    url: str
    created_at: datetime
    needs_key_again: bool = Field(
        description="The stored key can't be decrypted any more; replace it. False if the vault can't be asked."
    )


class Place(Schema):
    position: str
    name: str


class EndpointDetail(EndpointSummary):
    destination_url: str
    header_name: str = Field(description='The header that carries the key, or "" if only other places do.')
    places: list[Place] = Field(description="Further headers and query parameters, without their values.")
    kind: str = Field(description="What is sealed: static, azure_entra or google_service_account.")
    renewal_failure: str = Field(
        description='Why the last renewal of a cloud\'s access token failed, such as invalid_client. Otherwise "".'
    )


class EndpointSettings(Schema):
    label: str
    paused_at: datetime | None = Field(description="Since then every request is refused. null: not paused.")
    max_streams: int | None
    base_urls: dict[str, str] = Field(
        description="What SDKs take as their base URL, by API: openai, anthropic, gemini. Empty if it has none.",
        examples=[{"openai": "https://strake.example.org/p/k3v9q2m7x1ab/v1"}],
    )


class Endpoints(Schema):
    endpoints: list[EndpointSummary]
    next: str | None = Field(default=None, description="Only with limit or cursor: the next page, or null.")


class OneSettings(Schema):
    settings: EndpointSettings


class ChangedEndpoint(Schema):
    endpoint: EndpointDetail
    settings: EndpointSettings


class Provider(Schema):
    slug: str
    name: str
    destination_url: str = Field(description='Where requests go, or "" if a new endpoint names it.')


class Providers(Schema):
    providers: list[Provider]


class Token(Schema):
    id: str
    label: str
    preview: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None


class FullToken(Token):
    parent_id: str | None
    requests_per_minute: int | None
    requests_per_day: int | None
    requests_per_month: int | None
    concurrent_requests: int | None
    allowed_paths: list[str]
    allowed_networks: list[str]
    allow_minting: bool
    allowed_origins: list[str]


class Tokens(Schema):
    tokens: list[FullToken]
    next: str | None = Field(description="The cursor of the next page, or null.")


class OneToken(Schema):
    token: FullToken


class RevokedTokens(Schema):
    revoked: list[str] = Field(description="The ids of those that had not ended. Their children ended with them.")


class PlainToken(Schema):
    id: str
    plaintext: str = Field(description="The bearer token. Shown this once.")


class EndpointWithTokens(Schema):
    endpoint: EndpointDetail
    tokens: list[Token]


class ConnectedEndpoint(Schema):
    endpoint: EndpointDetail
    token: PlainToken


class IssuedToken(Schema):
    token: PlainToken


class OneEndpoint(Schema):
    endpoint: EndpointDetail


class Problem(Schema):
    code: str
    message: str


class ErrorAnswer(Schema):
    error: Problem
