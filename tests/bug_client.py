"""What tests of the bug tracker share: a key for each role, and short ways to ask as one of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support import Server

REPORT = {
    "title": "VL53L8CH sensor timeout",
    "description": "Device ESP32_LL_01 stops responding after 2 hours",
    "severity": "high",
    "priority": "urgent",
}


def make_key(server: Server, role: str) -> str:
    """A new API key, made on the command line."""
    made = subprocess.run(
        [sys.executable, "-m", "app.cli", "keys", "create", "--name", f"a {role}", "--role", role,
         "--data-dir", str(server.folder)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return made.stdout.strip().splitlines()[-1]


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
