"""What is said of attachments."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from app.routers.bug_models import Wire


class Attachment(Wire):
    """A file that hangs on a bug, or on the comment that is named. `sha256` is in hexadecimal digits."""

    id: UUID
    bug_id: UUID
    comment_id: UUID | None
    file_name: str
    media_type: str
    size_bytes: int
    sha256: str
    is_internal: bool
    uploader_id: str
    created_at: datetime
    url: str


class AttachmentPage(Wire):
    attachments: list[Attachment]
    total: int
    limit: int
    next_cursor: str | None
