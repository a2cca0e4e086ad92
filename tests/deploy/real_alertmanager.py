"""A real Alertmanager with the shipped configuration: secrets in a test's folder, receivers that a test listens to."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import yaml

from tests.deploy.real_prometheus import Daemon
from tests.deploy.tools import DEPLOY, tool
from tests.support import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED: Final = DEPLOY / "alertmanager" / "alertmanager.yml"
TOKEN: Final = "a token for tests"


class Receiver:
    """Webhooks' other end. `heard` has the path, the Authorization header and the document of each request."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str | None, Any]] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                heard.append((self.path, self.headers["Authorization"], json.loads(body)))
                with contextlib.suppress(ConnectionError):  # Alertmanager ended meanwhile
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                """Not on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket.listen(128)  # of many at once, one that is not let in comes again seconds later
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def statuses(self, path: str, alertname: str) -> list[str]:
        """What this receiver was told of an alert, in order: firing, resolved."""
        documents = [document for where, _, document in list(self.heard) if where == path]
        alerts = [alert for document in documents for alert in document["alerts"]]
        return [alert["status"] for alert in alerts if alert["labels"]["alertname"] == alertname]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Alertmanager(Daemon):
    """What tests ask of it."""

    @property
    def target(self) -> str:
        return urlsplit(self.url).netloc

    def post_alerts(self, *labels: dict[str, str]) -> None:
        annotations = {"summary": "a summary", "description": "a description", "runbook_url": "https://example.org/"}
        annotations |= {"dashboard": "a-board", "panel": "7"}
        self.post("/api/v2/alerts", [{"labels": one, "annotations": annotations} for one in labels])

    def alerts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.get("/api/v2/alerts"))
        return found

    def inhibited(self) -> dict[str, bool]:
        """By alertname, whether something inhibits it now."""
        return {alert["labels"]["alertname"]: bool(alert["status"]["inhibitedBy"]) for alert in self.alerts()}


def configuration(folder: Path, receiver: str) -> dict[str, Any]:
    """The shipped one, with receivers at `receiver`, secrets in `folder`, and without its patience."""
    text = SHIPPED.read_text().replace("/run/secrets", str(folder))
    made: dict[str, Any] = yaml.safe_load(text)
    made["templates"] = [str(SHIPPED.parent / pattern) for pattern in made["templates"]]
    for one in made["receivers"]:
        for webhook in one.get("webhook_configs", ()):
            webhook["url"] = f"{receiver}/{one['name']}"
    for route in [made["route"], *made["route"]["routes"]]:
        route |= {"group_wait": "0s", "group_interval": "1s"}
    for name in ("alertmanager_heartbeat_token", "alertmanager_pager_token", "alertmanager_smtp_password"):
        (folder / name).write_text(TOKEN)
    (folder / "alertmanager_slack_url").write_text(f"{receiver}/slack")
    return made


@contextlib.contextmanager
def running_alertmanager(folder: Path) -> Iterator[tuple[Alertmanager, Receiver]]:
    folder.mkdir(parents=True, exist_ok=True)
    receiver = Receiver()
    config, listen = folder / "alertmanager.yml", f"127.0.0.1:{free_port()}"
    config.write_text(yaml.safe_dump(configuration(folder, receiver.url)))
    command = [tool("prometheus-alertmanager"), f"--config.file={config}", f"--storage.path={folder / 'data'}"]
    command += [f"--web.listen-address={listen}", "--cluster.listen-address=", "--log.level=warn"]
    server = Alertmanager(command, f"http://{listen}", folder / "alertmanager.log")
    try:
        server.wait_ready()
        yield server, receiver
    finally:
        server.end()
        receiver.close()
