"""Kinds of values that settings have, as they are written in the environment, and what is wrong with others.

Each refuses by a ValueError whose text completes "NAME: ...".
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_RETRIES: Final = 20
WEEK_S: Final = 604_800.0
MOST_SLA_HOURS: Final = 87_600
_SHIFT: Final = re.compile(r"([01]\d|2[0-3]):00\Z")
_BUCKET: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.-]+)*/?\Z")
_ENDPOINT: Final = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+/?\Z")
_AGE: Final = re.compile(r"age1[02-9ac-hj-np-z]{58}\Z")
_SEVERITIES: Final = {"critical", "high", "medium", "low"}
_SLA_SHAPE: Final = "must look like critical=1,high=8,medium=24,low=72: each severity once, in hours"


def _of_text(read: Callable[[str], Any]) -> BeforeValidator:
    """What is no text (a default, an override from code) is taken as it is."""
    return BeforeValidator(lambda value: read(value) if isinstance(value, str) else value)


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _pairs(text: str) -> list[tuple[str, str]]:
    parts = (part.partition("=") for part in text.split(",") if part.strip())
    return [(name.strip(), value.strip()) for name, _, value in parts]


def _waits(value: tuple[float, ...]) -> tuple[float, ...]:
    ascending = 1 <= len(value) <= MOST_RETRIES and list(value) == sorted(value)
    if not ascending or not 0 < value[0] <= value[-1] <= WEEK_S:
        raise ValueError(f"must be 1 to {MOST_RETRIES} waits in seconds, none shorter than the one before")
    return value


def _site_recipes(text: str) -> dict[str, str]:
    parts = _pairs(text)
    if not all(site and recipe for site, recipe in parts):
        raise ValueError("must look like LL=sqal-1,MT=sqal-1-reported")
    if len(dict(parts)) < len(parts):
        raise ValueError("names a site twice")
    return dict(parts)


def _hours_by_severity(text: str) -> dict[str, float]:
    parts = _pairs(text)
    try:
        hours = {name: float(number) for name, number in parts}
    except ValueError as error:
        raise ValueError(_SLA_SHAPE) from error
    if len(parts) != len(_SEVERITIES) or hours.keys() != _SEVERITIES:
        raise ValueError(_SLA_SHAPE)
    if not all(0 < number <= MOST_SLA_HOURS for number in hours.values()):
        raise ValueError(f"hours must be more than 0 and at most {MOST_SLA_HOURS}")
    return hours


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    for origin in value:
        if not origin.startswith(("http://", "https://")) or "*" in origin or not urlsplit(origin).hostname:
            raise ValueError("must name http(s) origins, comma-separated; '*' is not accepted")
    return tuple(origin.rstrip("/") for origin in value)


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for network in value:
        try:
            ip_network(network)
        except ValueError as error:
            raise ValueError("must be addresses or networks such as 10.0.0.0/8, comma-separated") from error
    return value


def _shifts(value: tuple[str, ...]) -> tuple[str, ...]:
    """Rollups are by the hour: a shift begins with one."""
    if not value or len(set(value)) < len(value) or not all(_SHIFT.match(one) for one in value):
        raise ValueError("must be whole hours, each once, such as 05:00,13:00,21:00")
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("must be a time zone such as Europe/Paris") from error
    return value


def _postgres(value: SecretStr) -> SecretStr:
    """A host in the netloc, or (for a socket folder) as the `host` parameter. A password that is not written as
    addresses want it ends the netloc early, and its rest would be taken for host and database, which are shown.
    """
    shape = "must look like postgresql://user:password@host:5432/database"
    spelled = "in user and password write % as %25, @ as %40, / as %2F, : as %3A, # as %23 and ? as %3F"
    try:
        parts = urlsplit(value.get_secret_value())
        host = parts.hostname or parse_qs(parts.query).get("host")
        port_is_a_number = parts.port is None or parts.port > 0
        after_the_host = parts.path + parts.query + parts.fragment
    except ValueError as error:
        raise ValueError(f"{shape}; {spelled}") from error
    if parts.scheme not in ("postgresql", "postgres") or not host or not port_is_a_number:
        raise ValueError(shape)
    if "@" in after_the_host or parts.fragment:
        raise ValueError(f"{shape}, and there is @ or # behind the host; {spelled}")
    return value


def _bucket(value: str) -> str:
    if not _BUCKET.match(value):
        raise ValueError("must look like s3://bucket or s3://bucket/prefix")
    return value


def _endpoint(value: str) -> str:
    if not _ENDPOINT.match(value):
        raise ValueError("must look like https://host or http://host:port")
    return value


def _public_keys(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_AGE.match(key) for key in value):
        raise ValueError("must be public keys of age such as age1..., comma-separated; never a secret one")
    return value


Words = Annotated[tuple[str, ...], NoDecode, _of_text(_words)]
Origins = Annotated[Words, AfterValidator(_origins)]
Networks = Annotated[Words, AfterValidator(_networks)]
Shifts = Annotated[Words, AfterValidator(_shifts)]
PublicKeys = Annotated[Words, AfterValidator(_public_keys)]
Waits = Annotated[tuple[float, ...], NoDecode, _of_text(lambda text: text.split(",")), AfterValidator(_waits)]
SiteRecipes = Annotated[dict[str, str], NoDecode, _of_text(_site_recipes)]
HoursBySeverity = Annotated[dict[str, float], NoDecode, _of_text(_hours_by_severity)]
Zone = Annotated[str, AfterValidator(_zone)]
PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres)]
Bucket = Annotated[str, AfterValidator(_bucket)]
FolderOrBucket = Annotated[str, AfterValidator(lambda value: _bucket(value) if "://" in value else value)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
