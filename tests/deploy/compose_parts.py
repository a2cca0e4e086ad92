"""More of what Compose does not look at: what each service must have been given to work."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.settings import Settings
from tests.deploy.compose_images import (
    KEEPS,
    OURS,
    READS,
    SCRATCH,
    Service,
    effective,
    environment_of,
    files_of,
    image_of,
    listens,
    mounted,
    redis_says,
)
from tests.deploy.memory import bytes_of, needed_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BACKUP_BYTES = 255 * 10**6  # docs/backup.md: at most, PostgreSQL's included
REDIS_OVERHEAD = 1.25  # over maxmemory: fragmentation, clients' buffers


def part_problems(name: str, services: dict[str, Service], service: Service) -> Iterator[str]:
    for check in (_secrets, _places, _scratch, _variables, _memory):
        yield from check(service)
    if name == "database":
        yield from _database(service)
    if name == "redis" and not {"*", "0.0.0.0"} & set(redis_says(service, "bind", "127.0.0.1").split()):
        yield "listens to itself alone"
    if image_of(service) == OURS:
        yield from _redis(services, service)


def _given(service: Service) -> set[str]:
    return {one["source"] for one in service.get("secrets", ())}


def _secrets(service: Service) -> Iterator[str]:
    """Those that its settings or its files make it need."""
    own = json.dumps({key: value for key, value in service.items() if key not in ("secrets", "healthcheck")})
    texts = [own, *(effective(file.read_text()) for file in files_of(service))]
    needed = {found for text in texts for found in re.findall(r"/run/secrets/(\w+)", text)}
    if image_of(service) == OURS:
        needed |= _needed_by_settings(environment_of(service))
    yield from (f"is not given the secret {secret}" for secret in sorted(needed - _given(service)))


def _needed_by_settings(environment: dict[str, str]) -> set[str]:
    needed = {"database_url"}
    if "REDIS_HOST" in environment:
        needed.add("redis_password")
    for setting, prefix in (("BUG_ATTACHMENTS_URL", "bug_attachments_s3"), ("BACKUP_TO", "backup_s3")):
        if environment.get(setting, "").startswith("s3:"):
            needed |= {f"{prefix}_access_key", f"{prefix}_secret_key"}
    return needed


def _places(service: Service) -> Iterator[str]:
    """Its volume is where it keeps things, its files are where it looks for them."""
    image, once = image_of(service), service["restart"] == "no"
    volumes = {one["target"] for one in service.get("volumes", ()) if one["type"] == "volume"}
    kept = {KEEPS[image](service)} if image in KEEPS and not once else set()
    yield from (f"keeps {place}, which is no volume" for place in sorted(kept - volumes))
    yield from (f"keeps nothing in {place}" for place in sorted(volumes - kept))
    for place in READS[image](service) if image in READS else ():
        path = mounted(service, place)
        if path is None or not path.exists():
            yield f"looks for {place}, which is not mounted"


def _tmpfs(service: Service) -> dict[str, int]:
    """Sizes, by place."""
    found = {}
    for line in service.get("tmpfs", ()):
        place, _, options = line.partition(":")
        size = re.search(r"size=(\w+)", options)
        found[place] = bytes_of(size[1]) if size else 0
    return found


def _scratch(service: Service) -> Iterator[str]:
    place = SCRATCH.get(image_of(service))
    sizes = _tmpfs(service)
    if service.get("read_only") and place is not None and place not in sizes:
        yield f"cannot write to {place}"
    yield from (f"{where} is a tmpfs without bound" for where, size in sizes.items() if not size)


def _variables(service: Service) -> Iterator[str]:
    """Variables that its files name: `$NAME` in Grafana's, backquoted in syslog-ng's."""
    patterns = {"grafana/grafana": r"\$([A-Z][A-Z0-9_]+)\b", "balabit/syslog-ng": r"`([A-Z][A-Z0-9_]+)`"}
    pattern = patterns.get(image_of(service))
    if pattern is None:
        return
    parts = {"fields", "keys", *environment_of(service).values()}  # of syslog-ng's, those that its variables include
    files = [file for file in files_of(service) if file.suffix in (".yaml", ".conf")]
    files = [file for file in files if file.parent.name != "parts" or file.stem in parts]
    named = {name for file in files for name in re.findall(pattern, effective(file.read_text()))}
    own = {name for name in environment_of(service) if not name.startswith("GF_")}
    yield from (f"its files name {name}, which is not set" for name in sorted(named - own))
    yield from (f"{name} is set, and no file names it" for name in sorted(own - named))


def _memory(service: Service) -> Iterator[str]:
    needed = _needed(service) + sum(_tmpfs(service).values())
    limit = int(service["deploy"]["resources"]["limits"]["memory"])
    if limit < needed:
        yield f"{limit // 2**20} MiB of memory, where {needed // 2**20} are needed"


def _needed(service: Service) -> int:
    image, environment = image_of(service), environment_of(service)
    if image == "redis":
        return int(bytes_of(redis_says(service, "maxmemory", "0")) * REDIS_OVERHEAD)
    if image == "timescale/timescaledb":
        return bytes_of(environment.get("TS_TUNE_MEMORY", "0").lower())
    if image != OURS:
        return 0
    command = (service.get("command") or ["serve"])[0]
    return {"serve": needed_bytes(_settings(environment)), "backup": BACKUP_BYTES}.get(command, 0)


def _settings(environment: dict[str, str]) -> Settings:
    bounds = {name.lower(): value for name, value in environment.items() if name.endswith("_BYTES")}
    unset: dict[str, Any] = {
        name: one.get_default(call_default_factory=True) for name, one in Settings.model_fields.items()
    }
    return Settings(_env_file=os.devnull, **(unset | {"secrets_dir": None} | bounds))


def _database(service: Service) -> Iterator[str]:
    environment = environment_of(service)
    if "--auth-host=scram-sha-256" not in environment.get("POSTGRES_INITDB_ARGS", "").split():
        yield "its volume is not made with --auth-host=scram-sha-256"
    if "trust" in environment.get("POSTGRES_HOST_AUTH_METHOD", ""):
        yield "trusts who connects"
    if "timescaledb.max_background_workers=0" not in (service.get("command") or ()):
        yield "TimescaleDB's scheduler would be a session that forbids a restore"


def _redis(services: dict[str, Service], service: Service) -> Iterator[str]:
    environment = environment_of(service)
    redis = services.get(environment.get("REDIS_HOST", ""))
    port = int(environment.get("REDIS_PORT", Settings.model_fields["redis_port"].default))
    if redis is not None and port not in listens(redis):
        yield f"is to reach Redis on {port}, where nothing listens"
    if redis is not None and not set(service["networks"]) & set(redis["networks"]):
        yield "shares no network with Redis"


def bucket_problems(services: dict[str, Service], made: Path) -> Iterator[str]:
    """Each bucket that a setting names is made, and its keys may use it."""
    loop = re.search(r"for bucket in ([\w -]+); do", " ".join(services["buckets"]["command"]))
    buckets = set(loop[1].split()) if loop else set()
    identities = json.loads((made / "s3_identities").read_text())["identities"]
    may = {
        one["credentials"][0]["accessKey"]: {action.partition(":")[2] for action in one["actions"]}
        for one in identities
    }
    for name, service in services.items():
        for setting, key in (("BUG_ATTACHMENTS_URL", "bug_attachments_s3"), ("BACKUP_TO", "backup_s3")):
            url = urlsplit(environment_of(service).get(setting, ""))
            if url.scheme == "s3" and url.netloc not in buckets:
                yield f"{name}: nobody makes the bucket {url.netloc}"
            if url.scheme == "s3" and url.netloc not in may[(made / f"{key}_access_key").read_text().strip()]:
                yield f"{name}: its key is not for the bucket {url.netloc}"


def account_problems(services: dict[str, Service], made: Path) -> Iterator[str]:
    """Who connects is who was made, by which password."""
    url = urlsplit((made / "database_url").read_text().strip())
    environment = environment_of(services["database"])
    password = (made / "postgres_password").read_text().strip()
    wanted = (environment["POSTGRES_USER"], environment["POSTGRES_DB"], password)
    if (url.username, url.path.lstrip("/"), url.password) != wanted:
        yield "database_url is for another user, database or password than `database` makes"
    reader = environment_of(services["reader"])
    asked = (reader.get("PGHOST"), reader.get("PGUSER"), reader.get("PGDATABASE"))
    if asked != ("database", *wanted[:2]):
        yield f"reader: connects to {asked}"
    if environment_of(services["grafana"]).get("GAVEURS_POSTGRESQL_DATABASE") != environment["POSTGRES_DB"]:
        yield "grafana: reads another database"
