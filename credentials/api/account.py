"""The person, their access tokens and their sessions in the management API.

Creating an access token, signing in and deleting the account need a person in a browser.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from django.http import HttpRequest
from ninja import Field, Path, Router, Schema, Status

from accounts import access_tokens
from accounts.models import AccessToken
from accounts.sessions import service as sessions
from credentials.api import schemas
from credentials.api.access import ANY, TOKENS, actor_of
from credentials.api.cursors import Cursor, Limit, page
from credentials.api.document import errors
from credentials.api.schemas import ErrorAnswer, Me

AccessTokenId = Annotated[str, Path(pattern=r"^patid_[0-9A-Za-z]{1,26}$")]
SessionId = Annotated[str, Path(pattern=r"^ses_[0-9A-Za-z]{1,28}$")]


class AccessTokenDetail(Schema):
    id: str = Field(examples=["patid_5hV0cPq2mXkZ81aB"])
    label: str
    preview: str = Field(examples=["pat_8Kf2…"])
    scopes: list[str] = Field(examples=[["read", "tokens"]])
    allowed_networks: list[str] = Field(
        description="Where it may be used from. Empty: anywhere.", examples=[["192.0.2.0/24"]]
    )
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None


class AccessTokens(Schema):
    access_tokens: list[AccessTokenDetail]
    next: str | None = Field(description="The cursor of the next page, or null.")


class OneAccessToken(Schema):
    access_token: AccessTokenDetail


class Session(Schema):
    id: str = Field(examples=["ses_5hV0cPq2mXkZ81aB"])
    browser: str = Field(examples=["Firefox on Linux"])
    ip: str | None
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime


class Sessions(Schema):
    sessions: list[Session]
    next: str | None = Field(description="The cursor of the next page, or null.")


class EndedSessions(Schema):
    ended: int


router = Router()


@router.get("/me", response={200: Me, errors(): ErrorAnswer}, summary="Whom the access token acts for")
def me(request: HttpRequest) -> Me:
    return Me(user=schemas.User(email=actor_of(request).user.email))


# --- Access tokens -------------------------------------------------------------------------------------------------


@router.get("/access-tokens", response={200: AccessTokens, errors(422): ErrorAnswer}, summary="List access tokens")
def list_access_tokens(request: HttpRequest, limit: Limit = 100, cursor: Cursor = None) -> AccessTokens:
    """Newest first. People create them on a page, by strake login, or by manage.py create_access_token."""
    rows, following = page(AccessToken.objects.visible_to(actor_of(request)), limit, cursor)
    return AccessTokens(access_tokens=[_detail(token) for token in rows], next=following)


@router.get(
    "/access-tokens/current",
    response={200: OneAccessToken, errors(): ErrorAnswer},
    summary="Show the access token of this call",
)
def show_current_access_token(request: HttpRequest) -> OneAccessToken:
    return OneAccessToken(access_token=_detail(AccessToken.objects.get(pk=actor_of(request).acting_id)))


@router.delete(
    "/access-tokens/current",
    response={204: None, errors(): ErrorAnswer},
    summary="Revoke the access token of this call",
    auth=ANY,
)
def revoke_current_access_token(request: HttpRequest) -> Status[None]:
    """Any scope will do: whoever holds a token may end it."""
    actor = actor_of(request)
    access_tokens.revoke_access_token(actor=actor, token_id=actor.acting_id)
    return Status(204, None)


@router.delete(
    "/access-tokens/{access_token_id}",
    response={204: None, errors(404): ErrorAnswer},
    summary="Revoke an access token",
    auth=TOKENS,
)
def revoke_access_token(request: HttpRequest, access_token_id: AccessTokenId) -> Status[None]:
    access_tokens.revoke_access_token(actor=actor_of(request), token_id=access_token_id)
    return Status(204, None)


# --- Sessions ------------------------------------------------------------------------------------------------------


@router.get("/sessions", response={200: Sessions, errors(422): ErrorAnswer}, summary="List browsers that are signed in")
def list_sessions(request: HttpRequest, limit: Limit = 100, cursor: Cursor = None) -> Sessions:
    rows, following = page(sessions.list_sessions(actor_of(request).user), limit, cursor)
    found = [
        Session(
            id=row.pk,
            browser=row.browser,
            ip=row.ip,
            created_at=row.created_at,
            last_seen_at=row.last_seen_at,
            expires_at=row.expires_at,
        )
        for row in rows
    ]
    return Sessions(sessions=found, next=following)


@router.delete(
    "/sessions", response={200: EndedSessions, errors(): ErrorAnswer}, summary="Sign every browser out", auth=TOKENS
)
def end_sessions(request: HttpRequest) -> EndedSessions:
    return EndedSessions(ended=sessions.end_other_sessions(actor=actor_of(request), keep=None))


@router.delete(
    "/sessions/{session_id}",
    response={204: None, errors(404): ErrorAnswer},
    summary="Sign a browser out",
    auth=TOKENS,
)
def end_session(request: HttpRequest, session_id: SessionId) -> Status[None]:
    sessions.end_session(actor=actor_of(request), session_id=session_id)
    return Status(204, None)


def _detail(token: AccessToken) -> AccessTokenDetail:
    return AccessTokenDetail(
        id=token.pk,
        label=token.label,
        preview=token.preview,
        scopes=token.scopes,
        allowed_networks=token.allowed_networks,
        created_at=token.created_at,
        last_used_at=token.last_used_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
    )
