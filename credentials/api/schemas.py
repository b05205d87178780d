"""The request and response bodies of the management API, from which Ninja generates the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from ninja import Field, Schema
from pydantic import ConfigDict, SecretStr

from credentials.places import MAX_PLACES
from credentials.token_limits import MAX_ENTRIES, MAX_REQUESTS_PER_MINUTE

TEN_YEARS = 10 * 365 * 86400
NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"

Label = Annotated[str, Field(max_length=100, pattern=NO_CONTROLS, description="A name to recognise it by.")]
Text = Annotated[str, Field(max_length=512, pattern=NO_CONTROLS)]
ApiKey = Annotated[SecretStr, Field(description="The provider's key. Sealed at once, never shown.")]
Entry = Annotated[str, Field(max_length=300, pattern=NO_CONTROLS)]


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
    unchecked: bool = Field(False, description="Save the key even if the provider cannot be reached to check it.")


class NewToken(Body):
    label: Label = ""
    expires_in: int | None = Field(None, ge=1, le=TEN_YEARS, description="Seconds until the token ends by itself.")
    requests_per_minute: int | None = Field(None, ge=1, le=MAX_REQUESTS_PER_MINUTE)
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


class NewKey(Body):
    api_key: ApiKey
    unchecked: bool = Field(False, description="Save the key even if the provider cannot be reached to check it.")


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
        description="The stored key cannot be opened any more; replace it. False if the vault cannot be asked."
    )


class Place(Schema):
    position: str
    name: str


class EndpointDetail(EndpointSummary):
    base_urls: dict[str, str] = Field(
        description="What SDKs take as their base URL, by API: openai, anthropic, gemini. Empty if it has none.",
        examples=[{"openai": "https://strake.example.org/p/k3v9q2m7x1ab/v1"}],
    )
    destination_url: str
    header_name: str = Field(description='The header that carries the key, or "" if only other places do.')
    places: list[Place] = Field(description="Further headers and query parameters, without their values.")
    kind: str = Field(description="What is sealed: static, azure_entra or google_service_account.")
    renewal_failure: str = Field(
        description='Why the last renewal of a cloud\'s access token failed, such as invalid_client. Otherwise "".'
    )


class Endpoints(Schema):
    endpoints: list[EndpointSummary]


class Token(Schema):
    id: str
    label: str
    preview: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None


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
