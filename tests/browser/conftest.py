"""The page in a real, headless Chromium; every test fails on a script error or a request to another host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import async_playwright, expect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

IMAGES = Path(__file__).parents[2] / "docs" / "images"
KEEP_IMAGES = "KEEP_SCREENSHOTS" in os.environ
PATIENCE_MS = 15_000

expect.set_options(timeout=PATIENCE_MS)


class Browser:
    """Opens pages, and remembers what went wrong on them."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium
        self.wrong: list[str] = []

    async def page(self, url: str, **options: Any) -> Any:
        context = await self._chromium.new_context(**{"viewport": {"width": 1920, "height": 1080}} | options)
        page = await context.new_page()
        page.on("pageerror", lambda error: self.wrong.append(f"script error: {error}"))
        own = urlsplit(url).netloc

        def check(request: Any) -> None:
            if urlsplit(request.url).netloc != own:
                self.wrong.append(f"asked another host: {request.url}")

        page.on("request", check)
        page.set_default_timeout(PATIENCE_MS)
        await page.goto(url)
        return page


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        opened = Browser(chromium)
        yield opened
        await chromium.close()
        assert opened.wrong == []


@pytest.fixture
def keep_image() -> Callable[[Any, str], Awaitable[None]]:
    """Takes a picture; into the docs when KEEP_SCREENSHOTS is set."""

    async def keep(page: Any, name: str) -> None:
        picture = await page.screenshot(full_page=True)
        assert picture[:4] == b"\x89PNG"
        if KEEP_IMAGES:
            (IMAGES / f"{name}.png").write_bytes(picture)

    return keep
