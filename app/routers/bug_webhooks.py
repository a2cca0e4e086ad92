"""`/api/bugs/webhooks`: whom we tell what is done to bugs, and what became of telling. For administrators alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field

from app.bugs import deliveries, webhooks
from app.core.errors import ConflictError
from app.dependencies import Admin, CurrentResources, CurrentRuntime
from app.routers.bug_models import Wire
from app.routers.bug_requests import BUG_PROBLEMS, After

router = APIRouter(prefix="/api/bugs/webhooks", tags=["bug webhooks"], responses=BUG_PROBLEMS)
WebhookId = Annotated[UUID, Path(description="the webhook's id")]
DeliveryId = Annotated[UUID, Path(description="the delivery's id, which its receiver gets as `webhook-id`")]
State = Literal["waiting", "delivered", "dead"]
Kind = Literal["*", "bug.created", "bug.changed", "bug.commented", "bug.comment_edited", "bug.attached", "bug.detached",
               "bug.linked", "bug.unlinked", "bug.seen", "ping"]  # fmt: skip
Url = Annotated[
    str,
    Field(min_length=8, max_length=2_000, pattern=r"^[\x21-\x7e]+$", json_schema_extra={"format": "uri"}),
]
Kinds = Annotated[list[Kind], Field(min_length=1, max_length=20)]
Flag = Annotated[bool, Field(strict=True)]
ANY: Final[list[Kind]] = ["*"]


class WebhookDraft(Wire):
    """`events`: of which kinds it is told, `*` for all. `includeInternal`: of internal comments too."""

    url: Url
    events: Kinds = ANY
    include_internal: Flag = False
    enabled: Flag = True


class WebhookChanges(Wire):
    """A member left out stays as it is. `rotateSecret`: a new secret, the former one is good for nothing at once."""

    url: Url = ""
    events: Kinds = ANY
    include_internal: Flag = False
    enabled: Flag = True
    rotate_secret: Flag = False


class Webhook(Wire):
    id: UUID
    url: str
    events: list[str]
    include_internal: bool
    enabled: bool
    created_at: datetime
    creator_id: str


class WebhookMade(Webhook):
    """`secret` is shown when it is made, and never again."""

    secret: str | None = None


class Webhooks(Wire):
    items: list[Webhook]


class Delivery(Wire):
    """`nextAt`: when a waiting one is sent, or a dead one died; `lastStatus`, `lastError`: of the last attempt."""

    id: UUID
    webhook_id: UUID
    event: str
    state: State
    attempts: int
    last_status: int | None
    last_error: str | None
    created_at: datetime
    next_at: datetime
    delivered_at: datetime | None


class DeliveryDetail(Delivery):
    """With what is sent."""

    body: dict[str, Any]


class Deliveries(Wire):
    items: list[Delivery]
    next_cursor: str | None


async def tell_soon(request: Request, resources: CurrentResources) -> AsyncIterator[None]:
    """After a request that may have changed a bug: what it wrote for webhooks is sent at once."""
    yield
    if request.method not in ("GET", "HEAD"):
        resources.bugs.webhook_sender.wake()


@router.post("", status_code=201, response_model=WebhookMade)
async def create(runtime: CurrentRuntime, who: Admin, draft: WebhookDraft) -> dict[str, Any]:
    """Tell somebody what is done to bugs. The answer holds the secret that signs, this once."""
    loopback = runtime.settings.webhook_allow_loopback
    async with runtime.resources.bugs.database.connection() as connection, connection.transaction():
        wanted = draft.model_dump()
        return await webhooks.create_webhook(connection, wanted, who.id, runtime.clock.now(), loopback=loopback)


@router.get("", response_model=Webhooks)
async def all_of_them(resources: CurrentResources, _who: Admin) -> dict[str, Any]:
    """Every webhook, oldest first."""
    async with resources.bugs.database.connection() as connection:
        return {"items": await webhooks.list_webhooks(connection)}


@router.get("/{webhook_id}", response_model=Webhook)
async def one(resources: CurrentResources, _who: Admin, webhook_id: WebhookId) -> dict[str, Any]:
    async with resources.bugs.database.connection() as connection:
        return await webhooks.one_webhook(connection, webhook_id)


@router.patch("/{webhook_id}", response_model=WebhookMade)
async def change(
    runtime: CurrentRuntime, _who: Admin, webhook_id: WebhookId, changes: WebhookChanges
) -> dict[str, Any]:
    """Change a webhook. What waits for a disabled one waits until it is enabled; what is internal and waits is not sent
    once it is not told of that.
    """
    wanted, rotate = changes.model_dump(exclude_unset=True, exclude={"rotate_secret"}), changes.rotate_secret
    loopback = runtime.settings.webhook_allow_loopback
    async with runtime.resources.bugs.database.connection() as connection:
        return await webhooks.change_webhook(connection, webhook_id, wanted, rotate_secret=rotate, loopback=loopback)


@router.delete("/{webhook_id}", status_code=204)
async def delete(resources: CurrentResources, _who: Admin, webhook_id: WebhookId) -> None:
    """Forget a webhook and all its deliveries."""
    async with resources.bugs.database.connection() as connection:
        await webhooks.delete_webhook(connection, webhook_id)


@router.post("/{webhook_id}/ping", status_code=202, response_model=Delivery)
async def ping(runtime: CurrentRuntime, who: Admin, webhook_id: WebhookId) -> dict[str, Any]:
    """Send something that means nothing, to see whether it arrives."""
    async with runtime.resources.bugs.database.connection() as connection, connection.transaction():
        if not (await webhooks.one_webhook(connection, webhook_id))["enabled"]:
            raise ConflictError("the webhook is disabled")
        return await deliveries.ping(connection, webhook_id, who.id, runtime.clock.now())


@router.get("/{webhook_id}/deliveries", response_model=Deliveries)
async def delivery_list(
    resources: CurrentResources,
    _who: Admin,
    webhook_id: WebhookId,
    after: After,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:
    """What was sent, waits, or could not be delivered (`dead`); newest first."""
    async with resources.bugs.database.connection() as connection:
        await webhooks.one_webhook(connection, webhook_id)
        items, more = await deliveries.list_deliveries(connection, webhook_id, state, after, limit)
    return {"items": items, "next_cursor": more.encode() if more else None}


@router.get("/{webhook_id}/deliveries/{delivery_id}", response_model=DeliveryDetail)
async def one_delivery(
    resources: CurrentResources, _who: Admin, webhook_id: WebhookId, delivery_id: DeliveryId
) -> dict[str, Any]:
    async with resources.bugs.database.connection() as connection:
        return await deliveries.one_delivery(connection, webhook_id, delivery_id)


@router.post("/{webhook_id}/deliveries/{delivery_id}/resend", status_code=202, response_model=Delivery)
async def resend(
    runtime: CurrentRuntime, _who: Admin, webhook_id: WebhookId, delivery_id: DeliveryId
) -> dict[str, Any]:
    """Send it now, whatever became of it before, and as often again as at first. The `webhook-id` stays. Not to a
    webhook that is disabled, nor what is internal to one that is not told of that (409).
    """
    async with runtime.resources.bugs.database.connection() as connection, connection.transaction():
        return await deliveries.resend(connection, webhook_id, delivery_id, runtime.clock.now())
