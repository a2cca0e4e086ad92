"""How full a folder's file system is, also of one that does not exist yet."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.core.disks import Disks, _ask
from app.core.metrics import Metrics


async def test_a_folder_shows_its_file_system_also_before_it_is_made(tmp_path: Path) -> None:
    metrics = Metrics()
    task = asyncio.create_task(Disks(metrics, {"data": tmp_path / "not" / "yet"}).run())
    async with asyncio.timeout(30):
        while (free := metrics.disk_free.labels("data").value) is None:
            await asyncio.sleep(0)
    task.cancel()
    real = shutil.disk_usage(tmp_path)
    assert metrics.disk_size.labels("data").value == real.total
    assert free == pytest.approx(real.free, rel=0.05)


async def test_a_file_system_that_cannot_be_asked_has_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def refuse(_path: object) -> object:
        asked.set()
        raise OSError(5, "Input/output error")

    metrics = Metrics()
    metrics.disk_free.labels("data").set(1)
    monkeypatch.setattr("app.core.disks.os.statvfs", refuse)
    task = asyncio.create_task(Disks(metrics, {"data": tmp_path}).run())
    async with asyncio.timeout(30):
        while not asked.is_set() or metrics.disk_free.labels("data").value is not None:
            await asyncio.sleep(0)
    task.cancel()
    assert metrics.disk_size.labels("data").value is None


async def test_a_folder_whose_disk_hangs_has_no_figures_until_it_answers_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, go_on, asked = os.statvfs, threading.Event(), []

    def hang(path: Path) -> object:
        asked.append(path)
        if path == tmp_path / "slow":
            go_on.wait(20)
        return real(path)

    (tmp_path / "slow").mkdir()
    monkeypatch.setattr("app.core.disks.os.statvfs", hang)
    monkeypatch.setattr("app.core.disks.DEADLINE_S", 0.01)
    metrics = Metrics()
    metrics.disk_free.labels("slow").set(1)
    task = asyncio.create_task(Disks(metrics, {"slow": tmp_path / "slow", "data": tmp_path}).run())
    async with asyncio.timeout(30):
        while metrics.disk_free.labels("slow").value is not None or metrics.disk_free.labels("data").value is None:
            await asyncio.sleep(0)
        while tmp_path / "slow" not in asked:
            await asyncio.sleep(0)
        assert asked.count(tmp_path / "slow") == 1
        go_on.set()
        while metrics.disk_free.labels("slow").value is None:
            await asyncio.sleep(0)
    task.cancel()


async def test_a_folder_that_may_not_even_be_looked_for_has_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = OSError(116, "Stale file handle")
    monkeypatch.setattr(Path, "exists", lambda _self: (_ for _ in ()).throw(stale))
    assert await _ask(tmp_path) is None


async def test_without_a_thread_to_ask_there_are_no_figures_until_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("app.core.disks.EVERY_S", 0.0)
    metrics = Metrics()
    metrics.disk_free.labels("data").set(1)
    async with asyncio.timeout(30):
        with monkeypatch.context() as patched, capture_logs() as lines:
            patched.setattr(threading.Thread, "start", refuse)
            task = asyncio.create_task(Disks(metrics, {"data": tmp_path}).run())
            while metrics.disk_free.labels("data").value is not None:
                await asyncio.sleep(0)
        while metrics.disk_free.labels("data").value is None:
            await asyncio.sleep(0)
    task.cancel()
    assert lines[0]["reason"] == "RuntimeError: can't start new thread"
