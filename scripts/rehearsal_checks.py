"""What must hold of the container, each a line of the rehearsal's output."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import tomllib
from typing import TYPE_CHECKING, Final

from scripts.rehearsal_root import ROOT, RehearsalError
from scripts.rehearsal_run import get, send_sample

if TYPE_CHECKING:
    from scripts.rehearsal_run import Container

APP_PORT, METRICS_PORT = 8000, 9100
TOOLS: Final = "gcc cc g++ clang make ld pip pip3 easy_install uv wheel git curl wget apt-key gpg"
MODULES: Final = ("pip", "setuptools", "wheel", "ensurepip", "pkg_resources")
CLAIMS: Final = (0o2777, 0o2770)  # what provisioners make of `fsGroup: 10001`
SECRET_NAME: Final = re.compile(r"PASSWORD|SECRET|TOKEN|KEY|DATABASE_URL")
# Everything that the user may write to: what a read-only root leaves.
WRITABLE: Final = """
import os
def writable():
    for folder, _, _ in os.walk("/"):
        if folder.startswith(("/proc", "/sys", "/dev")): continue
        try:
            with open(folder + "/.probe", "w"): pass
        except OSError: continue
        os.remove(folder + "/.probe"); yield folder
print(*sorted(set("/".join(f.split("/")[:4]) for f in writable())))
"""
ATTACHMENTS: Final = """
import os, pathlib
from app.bugs.attachment_store import AttachmentStore
AttachmentStore.in_folder(pathlib.Path(os.environ["DATA_DIR"]))
"""
IMPORTS: Final = """
import importlib.util, json, sys, app.application, app.migrations
found = [n for n in %r if importlib.util.find_spec(n)]
print(json.dumps({"path": sys.path[1:], "found": found, "app": app.application.__file__}))
"""


def must(condition: bool, what: str, seen: object = "") -> None:
    if not condition:
        raise RehearsalError(f"{what}: {seen}" if seen != "" else what)
    say(what)


def say(what: str) -> None:
    print(f"ok: {what}", flush=True)


def check_all(container: Container, url: str) -> None:
    check_description(container)
    check_contents(container)
    container.secret("database_url", url)
    check_service(container, url)
    check_backup(container)
    container.forget("database_url")
    check_demo(container)


def check_description(container: Container) -> None:
    stage = container.stage
    must(container.ports() == [APP_PORT, METRICS_PORT], "EXPOSE 8000 9100", container.ports())
    must(stage.environment().get("METRICS_PORT") == str(METRICS_PORT), "METRICS_PORT is the exposed one")
    must(stage.environment().get("DATA_DIR") == container.volume, "DATA_DIR is the volume")
    must(stage.last("STOPSIGNAL").rest == "SIGTERM", "STOPSIGNAL SIGTERM")
    told = [name for name in stage.environment() if SECRET_NAME.search(name)]
    must(not told, "no secret in ENV", told)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    labels = {key: value for one in stage.all("LABEL") for key, value in one.pairs().items()}
    must(labels.get("org.opencontainers.image.version") == version, "the version label is pyproject's", labels)


def check_contents(container: Container) -> None:
    tools = container.run("/bin/sh", "-c", f"for t in {TOOLS}; do command -v $t || true; done").split()
    must(not tools, "no compiler, pip or downloader in PATH", tools)
    imports = json.loads(container.run("python", "-c", IMPORTS % (MODULES,)))
    must(not imports["found"], "no pip or setuptools to import", imports["found"])
    own = ("/usr/local/lib/python3", "/opt/gaveurs/lib")
    strangers = [path for path in imports["path"] if not path.startswith(own)]
    must(not strangers, "sys.path is the image's own", strangers)
    must(imports["app"].startswith("/opt/gaveurs/lib/"), "the wheel runs, not the source tree", imports["app"])
    writable = container.run("python", "-c", WRITABLE).split()
    must(writable == ["/tmp", container.volume], "only /tmp and the volume can be written", writable)  # noqa: S108
    must(container.run("/usr/bin/id", "-u").strip() == "10001", "user 10001")
    dump = container.run("pg_dump", "--version")
    must(" 17." in dump, "pg_dump of PostgreSQL 17", dump)


def check_service(container: Container, url: str) -> None:
    must("schema none -> " in container.run(*container.entry("migrate")), "`migrate` makes the schema")
    must("CREATE TABLE" in container.run("pg_dump", "--schema-only", url), "pg_dump reads the database")
    key = container.run(*container.entry("keys", "create", "--name", "rehearsal", "--role", "device")).strip()
    with container.running() as service:
        service.wait_for(APP_PORT, "/health/ready")
        say("ENTRYPOINT and CMD serve: /health/ready is 200")
        for path in ("/health/startup", "/health/live", "/health/ready"):
            service.wait_for(METRICS_PORT, path)
        must(get(APP_PORT, "/api/sqal/samples")[0] == 401, "the API asks for a key")  # noqa: PLR2004
        answer = asyncio.run(send_sample(APP_PORT, key))
        must(answer.get("status") == "saved", "a device's sample is acknowledged", answer)
        counted = "\nsamples_committed_total{" in get(METRICS_PORT, "/metrics")[1]
        must(counted, "the management port has probes, and counts it")
        tries = range(3)  # an engine takes as many
        must(any(container.health_check() for _ in tries), "HEALTHCHECK succeeds while it serves")
        code = service.stop(signal.SIGTERM)
        log = service.log()
        must(code == 0, "SIGTERM to process 1 drains it", f"{code}\n{log[-1000:]}")
        receipt = re.search(r'Graceful shutdown completed[^\n]*"acked": ?1,[^\n]*"lost_acked": ?0\b', log)
        must(receipt is not None, "its receipt says lost_acked 0", log[-1000:])
    must(not container.health_check(), "HEALTHCHECK fails when nothing serves")


def check_backup(container: Container) -> None:
    """The proof is a PostgreSQL on the volume, which is noexec, beside Debian's pg_dump."""
    keep = f"{container.volume}/backups"
    told = container.run(*container.entry("backup", "--to", keep))
    must("restored for proof" in told, "`backup` saves the database and proves it", told)
    must("verified" in container.run(*container.entry("backup", "list", "--from", keep)), "and finds it again")
    for mode in CLAIMS:
        with container.handed_out(mode):
            told = container.run(*container.entry("backup", "--to", keep))
            must("restored for proof" in told, f"`backup` works on a claim of mode {mode:o}", told)
            container.run("python", "-c", ATTACHMENTS)
            with container.running() as service:
                service.wait_for(APP_PORT, "/health/ready")
                must(
                    service.stop(signal.SIGTERM) == 0,
                    f"attachments lie and the service runs on a claim of mode {mode:o}",
                )


def check_demo(container: Container) -> None:
    """The embedded PostgreSQL, on the volume, by the same user."""
    with container.running("demo", "--host", "127.0.0.1") as demo:
        demo.wait_for(APP_PORT, "/health/ready")
        say("`demo` runs with the embedded PostgreSQL")
        must(demo.stop(signal.SIGTERM) == 0, "and ends with 0")
