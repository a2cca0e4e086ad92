"""A real Prometheus on a free port, which scrapes given targets and evaluates given rules."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.deploy.tools import tool
from tests.support import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

JOB: Final = "gaveurs-backend"
UP_DEADLINE_S: Final = 30.0
POLL_S: Final = 0.1


class Daemon:
    """A server of ours with an HTTP port: started with its output in a file, ended by its own process alone."""

    def __init__(self, command: Sequence[str], url: str, log: Path) -> None:
        self.url = url
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)

    def wait_ready(self) -> None:
        """Until `/-/ready` says so; raises AssertionError with the log's end."""
        deadline = time.monotonic() + UP_DEADLINE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("/-/ready")
                return
            time.sleep(POLL_S)
        raise AssertionError(f"{self.url} did not become ready: {self._log.read_text()[-2000:]}")

    def get(self, path: str, **query: str) -> bytes:
        """Raises AssertionError with the answer's text for a status that is an error, OSError when nobody answers."""
        asked = f"{self.url}{path}?{urllib.parse.urlencode(query)}" if query else self.url + path
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as error:
            if error.code == 503:  # still starting
                raise OSError(error.code) from error
            raise AssertionError(f"{asked}: {error.code} {error.read().decode()}") from error

    def post(self, path: str, document: Any) -> None:
        asked = urllib.request.Request(
            self.url + path, json.dumps(document).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=10):
            pass

    def end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Prometheus(Daemon):
    """What tests ask of it."""

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant query, each `{"metric": {...}, "value": [time, "text"]}`."""
        result: list[dict[str, Any]] = self.api("query", query=expr)["result"]
        return result

    def value(self, expr: str) -> float | None:
        """The one number of a query; None when it has no series."""
        series = self.query(expr)
        assert len(series) < 2, f"{expr} has {len(series)} series"
        return float(series[0]["value"][1]) if series else None

    def alerts(self) -> list[dict[str, Any]]:
        """All alerts that are pending or firing: `{"labels", "annotations", "state", "activeAt", "value"}`."""
        found: list[dict[str, Any]] = self.api("alerts")["alerts"]
        return found

    def firing(self) -> set[str]:
        """The names of the alerts that are firing."""
        return {alert["labels"]["alertname"] for alert in self.alerts() if alert["state"] == "firing"}

    def rules(self) -> list[dict[str, Any]]:
        """All rules as they are loaded, with `health` and `lastError`."""
        return [rule for group in self.api("rules")["groups"] for rule in group["rules"]]

    def api(self, path: str, **query: str) -> Any:
        answer = json.loads(self.get(f"/api/v1/{path}", **query))
        assert answer["status"] == "success", answer
        return answer["data"]

    def wait_until(self, what: Callable[[], bool], deadline_s: float, why: str) -> float:
        """Seconds until `what()` holds; raises AssertionError with the alerts of the moment."""
        began = time.monotonic()
        while not what():
            if time.monotonic() - began > deadline_s:
                raise AssertionError(f"not within {deadline_s:.0f} s: {why}; alerts: {self.alerts()}")
            time.sleep(0.25)
        return time.monotonic() - began


def configuration(
    targets: Sequence[str], rules: Sequence[Path], every_s: float, alertmanager: str | None, job: str
) -> dict[str, Any]:
    """A small prometheus.yml: the targets `host:port` under the job's name."""
    every = f"{round(every_s * 1000)}ms"
    made: dict[str, Any] = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(path.resolve()) for path in rules],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": list(targets)}]}],
    }
    if alertmanager is not None:
        made["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    return made


@contextlib.contextmanager
def running_prometheus(
    folder: Path,
    targets: Sequence[str],
    *,
    rules: Sequence[Path] = (),
    every_s: float = 1.0,
    alertmanager: str | None = None,
    job: str = JOB,
) -> Iterator[Prometheus]:
    """A ready one with its data in `folder`, scraping `targets` and evaluating `rules` every `every_s`. No target needs
    to be there: `query` of a target that was never reached has `up` 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, listen = folder / "prometheus.yml", f"127.0.0.1:{free_port()}"
    config.write_text(yaml.safe_dump(configuration(targets, rules, every_s, alertmanager, job)))
    command = [tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address={listen}", "--log.level=warn", "--rules.alert.resend-delay=5s"]
    server = Prometheus([*command, "--enable-feature=exemplar-storage"], f"http://{listen}", folder / "prometheus.log")
    try:
        server.wait_ready()
        yield server
    finally:
        server.end()
