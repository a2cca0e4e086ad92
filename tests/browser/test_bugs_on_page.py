"""Bugs on the line leader's page: shown where they belong, reported with everything filled in, once each."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from playwright.async_api import expect

from app import admin
from app.core.security import Role
from app.settings import Settings
from tests.browser.test_page import liver
from tests.support import Server, device, running_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.browser.conftest import Browser

    KeepImage = Callable[[Any, str], Awaitable[None]]

BY_HAND = {"BUGS_FROM_TELEMETRY": "false"}  # every bug here is one that a person has reported
MARKUP = "<img src=x onerror=alert(1)><b>bold</b>"


def report(server: Server, **changes: Any) -> dict[str, Any]:
    said = {"title": "lens fogged", "description": "cleaned twice", "severity": "high", "priority": "low"}
    status, body, _ = server.request("/api/bugs/", method="POST", body=said | changes)
    assert status == 201, body
    made: dict[str, Any] = json.loads(body)
    return made


async def open_form(page: Any, button: str = "Report a bug: Livers are rejected ESP32_LL_01") -> Any:
    await page.get_by_role("button", name=button).click()
    form = page.locator("#report")
    await expect(form).to_be_visible()
    return form


async def test_a_bug_is_reported_from_an_alert_with_everything_filled_in(
    browser: Browser, keep_image: KeepImage
) -> None:
    with running_server(**BY_HAND) as server:
        async with device(server) as box:
            await box.ask(liver(score=0.2, sample_id="LL-1", firmware_version="v2.3.1"))
            updated = {"type": "esp32_hello", "device_id": "ESP32_LL_01", "firmware_version": "v2.4.0"}
            await box.ask(updated)  # what measured the liver is the one before
            page = await browser.page(f"{server.url}/?lang=en&theme=light")
            await expect(page.locator("#bugs li")).to_have_text(["no bugs"])
            form = await open_form(page)
            (alert,) = server.get("/api/sqal/alerts")["items"]
            filled = {
                "title": "Livers are rejected: ESP32_LL_01", "severity": "critical", "priority": "urgent",
                "category": "quality", "deviceId": "ESP32_LL_01", "firmwareVersion": "v2.3.1", "siteCode": "LL",
                "tags": "alert, reject",
            }  # fmt: skip
            for name, value in filled.items():
                await expect(form.locator(f"[name={name}]")).to_have_value(value)
            described = await form.locator("[name=description]").input_value()
            assert all(str(alert[name]) in described for name in ("id", "opened_at", "worst", "sample_id"))
            await form.locator("[name=reportedBy]").fill("Jeanne")
            await keep_image(page, "page-report")
            await form.get_by_role("button", name="Report", exact=True).click()
            await expect(form.locator("#report-done-text")).to_have_text("Reported as #1")
            await expect(form.locator("#report-done-note")).to_have_text("")
            await form.get_by_role("link", name="#1").click()
            await expect(page.locator("#bug-title")).to_have_text("#1 Livers are rejected: ESP32_LL_01")
            await expect(page.locator("#bug-description")).to_contain_text(alert["id"])
            await page.locator("#bug-close").click()
            await page.locator("#report-close").click()
            focused = "document.activeElement.dataset.report"
            assert await page.evaluate(focused) == alert["id"]

            (bug,) = server.get("/api/bugs/")["bugs"]
            assert {name: bug[name] for name in filled if name != "tags"} == {
                name: value for name, value in filled.items() if name != "tags"
            }
            assert (bug["tags"], bug["reportedBy"]) == (["alert", "reject"], "Jeanne")
            (link,) = server.get(f"/api/bugs/{bug['id']}/links")["links"]
            assert (link["kind"], link["sampleId"]) == ("sample", "LL-1")

            await expect(page.locator("#bugs li")).to_have_count(1)
            await expect(page.locator("#bugs li")).to_contain_text("critical · open · ESP32_LL_01 · 0 min")
            await page.get_by_role("button", name="Bugs of ESP32_LL_01", exact=True).click()
            await expect(page.locator("#bugs-of-list li")).to_contain_text("#1 Livers are rejected: ESP32_LL_01")
            await page.locator("#bugs-of-close").click()
            await page.get_by_role("button", name="Bugs of this liver").click()
            await expect(page.locator("#bugs-of-title")).to_have_text("Bugs of ESP32_LL_01, LL-1")
            await expect(page.locator("#bugs-of-list li")).to_contain_text("critical · open")
            await page.locator("#bugs-of-report").click()
            await expect(form.locator("[name=title]")).to_have_value("Grade Reject in doubt: ESP32_LL_01, LL-1")
            await expect(form.locator("[name=severity]")).to_have_value("low")


async def test_a_double_click_makes_one_bug_and_so_does_a_second_try_after_a_lost_answer(browser: Browser) -> None:
    with running_server(**BY_HAND) as server:
        async with device(server) as box:
            await box.ask(liver(score=0.2))
            page = await browser.page(f"{server.url}/?lang=en")
            keys: list[str | None] = []

            async def lose_the_first(route: Any) -> None:
                keys.append(route.request.headers.get("idempotency-key"))
                answer = await route.fetch()
                await (route.abort() if len(keys) == 1 else route.fulfill(response=answer))

            await page.route("**/api/bugs/", lose_the_first)
            form = await open_form(page)
            await form.get_by_role("button", name="Report", exact=True).dblclick()
            await expect(form.locator("#report-error")).to_contain_text("the same report makes no second bug")
            assert len(keys) == 1
            await form.get_by_role("button", name="Report", exact=True).click()
            await expect(form.locator("#report-done-text")).to_have_text("Reported as #1")
            assert server.get("/api/bugs/")["total"] == 1
            assert keys == [keys[0]] * 2
            assert keys[0]
            # The same words about another occasion are another bug.
            await page.locator("#report-close").click()
            await open_form(page)
            await form.get_by_role("button", name="Report", exact=True).dblclick()
            await expect(form.locator("#report-done-text")).to_have_text("Reported as #2")
            assert server.get("/api/bugs/")["total"] == 2
            assert keys[2] != keys[0]


async def test_what_somebody_wrote_is_shown_as_text_never_as_markup(browser: Browser) -> None:
    with running_server(**BY_HAND) as server:
        async with device(server) as box:
            await box.ask(liver(score=0.2))
            bug = report(server, title=MARKUP, description=MARKUP, deviceId="ESP32_LL_01")
            said = {"comment": MARKUP, "author": MARKUP}
            assert server.request(f"/api/bugs/{bug['id']}/comments", method="POST", body=said)[0] == 201
            page = await browser.page(f"{server.url}/?lang=en")
            await expect(page.locator("#bugs a")).to_have_text([f"#1 {MARKUP}"])
            await page.get_by_role("button", name="Bugs of ESP32_LL_01", exact=True).click()
            await expect(page.locator("#bugs-of-list a")).to_have_text([f"#1 {MARKUP}"])
            await page.locator("#bugs-of-list a").click()
            await expect(page.locator("#bug-description")).to_have_text(MARKUP)
            await expect(page.locator("#bug-comments .said")).to_have_text([MARKUP])
            await page.locator("#bug-close").click()
            await page.locator("#bugs-of-close").click()
            form = await open_form(page)
            await form.locator("[name=title]").fill(MARKUP)
            await expect(page.locator("#report-similar a")).to_have_text([f"#1 {MARKUP}"])
            assert await page.locator("img, b").count() == 0


async def test_similar_bugs_are_shown_while_a_title_is_typed(browser: Browser) -> None:
    with running_server(**BY_HAND) as server:
        async with device(server) as box:
            await box.ask(liver(score=0.2))
            report(server, title="Capteur VL53L8CH embué le matin")
            page = await browser.page(f"{server.url}/?lang=fr")
            form = await open_form(page, "Signaler une anomalie: Des foies sont rejetés ESP32_LL_01")
            await expect(page.locator("#report-similar")).to_be_hidden()
            await form.locator("[name=title]").press_sequentially(" capteur VL53L8CH", delay=5)
            await form.locator("[name=title]").fill("Capteur VL53L8CH embué")
            await expect(page.locator("#report-similar a")).to_have_text(["#1 Capteur VL53L8CH embué le matin"])
            await form.locator("[name=title]").fill("zz")
            await expect(page.locator("#report-similar")).to_be_hidden()


async def test_what_the_api_refuses_is_said_at_its_field(browser: Browser) -> None:
    with running_server(**BY_HAND) as server:
        async with device(server) as box:
            await box.ask(liver(score=0.2))
            page = await browser.page(f"{server.url}/?lang=en")
            form = await open_form(page)
            await form.locator("[name=title]").fill("")
            await form.locator("[name=siteCode]").fill("nowhere")
            await form.locator("[name=tags]").fill("good, " + "x" * 51)
            await form.get_by_role("button", name="Report", exact=True).click()
            for name in ("title", "siteCode", "tags"):
                await expect(form.locator(f"#report-{name}-wrong")).not_to_have_text("")
                await expect(form.locator(f"[name={name}]")).to_have_attribute("aria-invalid", "true")
            await expect(form.locator("#report-description-wrong")).to_have_text("")
            assert await page.evaluate("document.activeElement.name") == "title"
            await form.locator("[name=title]").fill("now it has one")
            await form.locator("[name=siteCode]").fill("LL")
            await form.locator("[name=tags]").fill("")
            await form.get_by_role("button", name="Report", exact=True).click()
            await expect(form.locator("#report-done-text")).to_have_text("Reported as #1")
            assert server.get("/api/bugs/")["bugs"][0]["title"] == "now it has one"


async def test_a_viewer_sees_bugs_and_no_button_to_report_one(browser: Browser) -> None:
    with running_server(AUTH="keys", **BY_HAND) as server:
        settings = Settings(data_dir=server.folder, database_url=None)
        admins = (server.folder / "admin.key").read_text().strip()
        key = await admin.with_database(settings, lambda c: admin.make_key(c, "screen", Role.VIEWER))
        headers = {"Authorization": f"Bearer {admins}"}
        said = {"title": "seen by all", "description": "x", "severity": "high", "priority": "low"}
        made = await asyncio.to_thread(server.request, "/api/bugs/", method="POST", body=said, headers=headers)
        assert made[0] == 201
        async with device(server, additional_headers=headers) as box:
            await box.ask(liver(score=0.2))
            page = await browser.page(f"{server.url}/?lang=en")
            await page.locator("#key").fill(key)
            await page.keyboard.press("Enter")
            await expect(page.locator("#bugs a")).to_have_text(["#1 seen by all"])
            await expect(page.locator("#alerts li")).to_have_count(1)
            await expect(page.get_by_role("button", name="Report a bug")).to_have_count(0)
            await page.get_by_role("button", name="Bugs of ESP32_LL_01", exact=True).click()
            await expect(page.locator("#bugs-of-list li")).to_have_text(["no bugs"])
            await expect(page.locator("#bugs-of-report")).to_be_hidden()
