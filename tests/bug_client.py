"""What tests of the bug tracker share: a key for each role, and short ways to ask as one of them."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app import admin
from app.core.security import Role
from app.settings import Settings

if TYPE_CHECKING:
    from tests.support import Server

REPORT = {
    "title": "VL53L8CH sensor timeout",
    "description": "Device ESP32_LL_01 stops responding after 2 hours",
    "severity": "high",
    "priority": "urgent",
}


def make_key(server: Server, role: str) -> str:
    """A new API key, made in the server's database."""
    settings = Settings(data_dir=server.folder, database_url=None)

    def make() -> str:
        return asyncio.run(admin.with_database(settings, lambda c: admin.make_key(c, f"a {role}", Role(role))))

    with ThreadPoolExecutor(1) as pool:  # a loop may be running here
        return pool.submit(make).result()


@dataclass
class Caller:
    """Somebody who asks: with a key, or from this machine in open mode."""

    server: Server
    key: str | None = None

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """(status, decoded body, headers); header names are written with underscores."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.key is not None:
            sent["Authorization"] = f"Bearer {self.key}"
        status, raw, answered = self.server.request(path, method=method, body=body, headers=sent)
        kind = answered.get("content-type", "")
        return status, json.loads(raw) if raw and "json" in kind else raw, answered

    def get(self, path: str) -> Any:
        status, body, _ = self.ask("GET", path)
        assert status == 200, (path, status, body)
        return body

    def post(self, path: str, body: Any, **headers: str) -> Any:
        status, answer, _ = self.ask("POST", path, body, **headers)
        assert status == 201, (path, status, answer)
        return answer

    def patch(self, path: str, body: Any, **headers: str) -> Any:
        status, answer, _ = self.ask("PATCH", path, body, **headers)
        assert status == 200, (path, status, answer)
        return answer

    def report(self, **changes: Any) -> str:
        """The id of a new bug."""
        made: str = self.post("/api/bugs/", REPORT | changes)["id"]
        return made
