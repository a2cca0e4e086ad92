"""A folder of attachments in a process that has no thread left; what every store does is in tests/contracts."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from app.bugs.attachment_store import AttachmentStore, AttachmentsUnavailableError, new_key

if TYPE_CHECKING:
    from pathlib import Path


async def test_what_needs_a_thread_that_cannot_be_started_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = AttachmentStore.in_folder(tmp_path)
    writing = store.write(new_key())
    await writing.write(b"x")
    with monkeypatch.context() as patched:  # the loop itself needs a thread to end
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(AttachmentsUnavailableError):
            await writing.close()
        with pytest.raises(AttachmentsUnavailableError):
            await store.forget_unfinished(datetime.now(UTC))
