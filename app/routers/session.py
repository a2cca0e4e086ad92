"""`/api/session`: who asks, and a browser's way to present its key: in a cookie that no script can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.core.security import SESSION_COOKIE, Role
from app.dependencies import principal_of
from app.routers.middleware import check_key
from app.routers.sqal import PROBLEMS

if TYPE_CHECKING:
    from app.core.security import Principal

DAYS_30_S = 30 * 24 * 3_600
router = APIRouter(prefix="/api/session", tags=["session"], responses=PROBLEMS)


class SignIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    key: str = Field(max_length=200)


class WhoAsks(BaseModel):
    """`kind` is `key`, or `local` for a peer on this machine in open mode."""

    kind: str
    id: str
    roles: list[str]


def _shown(principal: Principal) -> dict[str, Any]:
    return {"kind": principal.kind, "id": principal.id, "roles": sorted(principal.roles)}


@router.get("", response_model=WhoAsks)
async def who(request: Request) -> dict[str, Any]:
    """Who asks, and in which roles."""
    return _shown(principal_of(request.scope))


@router.post("", response_model=WhoAsks)
async def sign_in(request: Request, response: Response, given: SignIn) -> dict[str, Any]:
    """Keep the key in this browser, for 30 days or until signed out. It is checked at every request, as ever."""
    principal = await check_key(request.scope, given.key)
    principal.require(Role.VIEWER, Role.OPERATOR)  # a device's key opens no page
    response.set_cookie(
        SESSION_COOKIE,
        given.key,
        max_age=DAYS_30_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return _shown(principal)


@router.delete("", status_code=204)
async def sign_out(response: Response) -> None:
    """Forget the key in this browser."""
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
