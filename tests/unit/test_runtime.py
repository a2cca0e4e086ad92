from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from app.core.clock import SystemClock
from app.runtime import Phase, Runtime
from app.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("phase", "gives_up"), [(Phase.STARTED, True), (Phase.DRAINING, False)])
async def test_a_background_task_that_ends_unasked_ends_the_process(
    phase: Phase, gives_up: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    runtime = Runtime(Settings(_env_file=None, data_dir=tmp_path), SystemClock(), phase=phase)

    async def nothing() -> None: ...

    async with AsyncExitStack() as stack:
        await runtime._background(stack, "writer 0", nothing())
        await asyncio.sleep(0)  # its callbacks
    assert runtime.failed is gives_up
    assert sent == ([(os.getpid(), signal.SIGTERM)] if gives_up else [])
