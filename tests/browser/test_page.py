"""The line leader's page against the real process, in a real browser."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from playwright.async_api import expect

from app.core.clock import iso
from app.sqal.simulator.messages import MessageMaker
from tests.support import Device, Server, data_folder, device, running_server, trimmed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.browser.conftest import Browser

    KeepImage = Callable[[Any, str], Awaitable[None]]

PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}


def liver(name: str = "ESP32_LL_01", score: float = 0.9, **changes: Any) -> dict[str, Any]:
    now = iso(datetime.now(UTC))
    own = {"device_id": name, "sample_id": uuid4().hex[:12], "timestamp": now, "site_code": name[6:8]}
    return trimmed(fusion__tof_score=score, fusion__spectral_score=score) | own | changes


async def fill_a_day(box: Device) -> None:
    """What a line has seen since yesterday, seven livers an hour and site, from the simulator, graded by sqal-1."""
    makers = [MessageMaker(f"ESP32_{site}_01", site, number, 3) for number, site in enumerate(("LL", "LS", "MT"))]
    now = datetime.now(UTC)
    for back in range(24, -1, -1):
        batch = [
            maker.sample(now - timedelta(hours=back, seconds=number)) for maker in makers for number in range(7, 0, -1)
        ]
        for number in range(0, len(batch), 7):
            await box.ask({"type": "sensor_batch", "samples": batch[number : number + 7]})


@contextlib.asynccontextmanager
async def running_line(server: Server, *sites: str) -> AsyncIterator[None]:
    """Devices that measure on and on."""

    async def measure(box: Device) -> None:
        makers = [MessageMaker(f"ESP32_{site}_01", site, number, 7) for number, site in enumerate(sites)]
        while True:
            for maker in makers:
                await box.ask(maker.sample(datetime.now(UTC)))
            await asyncio.sleep(0.7)

    async with device(server) as box:
        measuring = asyncio.create_task(measure(box))
        try:
            yield
        finally:
            measuring.cancel()


async def test_the_page_shows_the_line(browser: Browser, keep_image: KeepImage) -> None:
    with running_server(DEFAULT_RECIPE="sqal-1") as server:
        async with device(server) as box, running_line(server, "LL", "LS", "MT"):
            await fill_a_day(box)
            # A poor line in Mont-de-Marsan, graded by what its box says, so that alerts are open.
            server.request("/api/sqal/devices/ESP32_MT_02", method="PATCH", body={"recipe": "sqal-1-reported"})
            for score in (0.2, 0.55):
                await box.ask(liver("ESP32_MT_02", score))
            page = await browser.page(f"{server.url}/?lang=en&theme=light")
            await expect(page.locator("#link")).to_have_text("Live")
            await expect(page.locator("#grade")).to_have_attribute("data-grade", "A+", timeout=30_000)
            await expect(page.locator("#reasons li").first).to_contain_text("%")
            await expect(page.locator("#heights rect")).not_to_have_count(0)
            assert await page.locator("#heights > rect").count() >= 64
            await expect(page.locator("#spectrum > rect")).to_have_count(9)
            await expect(page.locator("#devices li")).to_have_count(4)
            await expect(page.locator("#alerts li")).to_have_count(2)
            await expect(page.locator("#trend circle")).to_have_count(24)
            await expect(page.locator("#per-minute")).not_to_have_text("\u2013", timeout=20_000)
            # One and the same liver: what is shown is what REST says of it.
            told, shown = await page.evaluate(
                "[document.getElementById('origin').textContent, document.getElementById('grade').dataset.grade]"
            )
            origin = told.split(" · ")
            assert server.get(f"/api/sqal/samples/{origin[0]}/{origin[1]}")["grade"] == shown
            await keep_image(page, "page")

            await page.get_by_role("button", name="Français").click()
            await expect(page.locator("html")).to_have_attribute("lang", "fr")
            await expect(page.locator("#link")).to_have_text("En direct")
            await expect(page.get_by_role("heading", name="Dernier foie")).to_be_visible()
            await keep_image(page, "page-fr")
            await page.get_by_role("button", name="Thème").click()
            await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
            await keep_image(page, "page-dark")

            phone = await browser.page(f"{server.url}/?lang=en", **PHONE)
            await expect(phone.locator("#reasons li").first).to_contain_text("%", timeout=30_000)
            await expect(phone.locator("#alerts li")).to_have_count(2)
            assert await phone.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            await keep_image(phone, "page-phone")


async def test_a_site_narrows_everything(browser: Browser) -> None:
    with running_server() as server:
        async with device(server) as box:
            await box.ask(liver("ESP32_LL_01"))
            await box.ask(liver("ESP32_LS_01", 0.2))
            page = await browser.page(f"{server.url}/?lang=en")
            await expect(page.locator("#devices li")).to_have_count(2)
            await page.locator("#site").select_option("LL")
            await expect(page.locator("#devices li")).to_have_text(["ESP32_LL_01online"])
            await expect(page.locator("#alerts li")).to_have_text(["none"])
            await expect(page.locator("#origin")).to_contain_text("ESP32_LL_01")
            await expect(page.locator("#hour-count")).to_have_text("1")
            await box.ask(liver("ESP32_LS_01", 0.9))
            await box.ask(liver("ESP32_LL_01", 0.5))
            await expect(page.locator("#hour-count")).to_have_text("2")
            await expect(page.locator("#grade")).to_have_text("C")
            await expect(page.locator("#alerts strong")).to_have_text(["Low scores"])


async def test_an_alert_is_acknowledged_by_keyboard(browser: Browser) -> None:
    with running_server() as server:
        async with device(server) as box:
            page = await browser.page(f"{server.url}/?lang=en")
            await expect(page.locator("#alerts li")).to_have_text(["none"])
            await box.ask(liver(score=0.2))
            button = page.get_by_role("button", name="Acknowledge: Livers are rejected ESP32_LL_01")
            await expect(button).to_be_visible()
            for _ in range(20):
                await page.keyboard.press("Tab")
                if await button.evaluate("node => node === document.activeElement"):
                    break
            await page.keyboard.press("Enter")
            await expect(page.locator("#alerts li")).to_have_attribute("data-acknowledged", "true")
            (alert,) = server.get("/api/sqal/alerts")["items"]
            assert (alert["acknowledged"], alert["state"]) == (True, "open")
            assert await page.evaluate("document.activeElement.id") == "alerts-title"
            for _ in range(10):
                await box.ask(liver())
            await expect(page.locator("#alerts li")).to_have_text(["none"])


async def test_it_says_when_data_is_stale_and_when_the_link_is_lost_and_comes_back(
    browser: Browser, keep_image: KeepImage
) -> None:
    with data_folder() as folder:
        server = Server(folder)
        try:
            server.start()
            page = await browser.page(f"{server.url}/?lang=en&theme=light&stale=8")
            await expect(page.locator("#banner")).to_have_text("No liver was ever measured here.")
            async with device(server) as box:
                await box.ask(liver())
                await expect(page.locator("#link")).to_have_text("Live")
                await expect(page.locator("#banner")).to_be_hidden()
                await expect(page.locator("#link")).to_have_text("No news")
                await expect(page.locator("#banner")).to_contain_text("No liver for 0 min")
                await expect(page.locator("#reasons li").first).to_contain_text("%")
                await keep_image(page, "page-stale")
            server.stop()
            await expect(page.locator("#link")).to_have_text("Link lost")
            await expect(page.locator("#banner")).to_contain_text("What you see is from then")
            await keep_image(page, "page-lost")
            server.start()
            async with device(server) as box:
                await expect(page.locator("#link")).not_to_have_text("Link lost", timeout=30_000)
                await box.ask(liver(score=0.5))
                await expect(page.locator("#grade")).to_have_text("C")
        finally:
            server.clean_up()


async def test_what_a_device_sends_is_shown_as_text_never_as_markup(browser: Browser) -> None:
    with running_server() as server:
        page = await browser.page(f"{server.url}/?lang=en")
        async with device(server) as box:
            await box.ask(liver(sample_id="<img src=x onerror=alert(1)>", lot_abattage="<script>alert(1)</script>"))
            await expect(page.locator("#origin")).to_contain_text("<img src=x onerror=alert(1)>")
            assert await page.locator("main img").count() == 0


async def test_with_keys_the_page_asks_for_one_and_keeps_it_where_no_script_reads_it(browser: Browser) -> None:
    with running_server(AUTH="keys") as server:
        key = (server.folder / "admin.key").read_text().strip()
        async with device(server, additional_headers={"Authorization": f"Bearer {key}"}) as box:
            page = await browser.page(f"{server.url}/?lang=en")
            await expect(page.locator("#sign-in")).to_be_visible()
            await page.locator("#key").fill("gvk_wrong")
            await page.keyboard.press("Enter")
            await expect(page.locator("#sign-in-error")).to_have_text("This key is not valid.")
            await page.locator("#key").fill(key)
            await page.keyboard.press("Enter")
            await expect(page.locator("#link")).to_have_text("No news")
            await box.ask(liver())
            await expect(page.locator("#grade")).to_have_text("A+")
            assert key not in await page.evaluate("document.cookie + JSON.stringify(localStorage)")
            await page.locator("#leave").click()
            await expect(page.locator("#sign-in")).to_be_visible()
