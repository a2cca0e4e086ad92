"""Whether there are settings at all, and names that look like ours and are not."""

from __future__ import annotations

import os
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic_settings import SettingsError

from app.doctor.finding import Finding, fine, note, problem, warning
from app.secret_files import USUAL_FOLDER
from app.settings import ENV_FILE as ENV_FILE_NAME
from app.settings import Settings, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TOPIC: Final = "settings"
ENV_FILE: Final = Path(ENV_FILE_NAME)
ALIKE: Final = 0.86  # REDIS_HOTS, DATABSE_URL; not REDIS_URL, which has its own line
ELSEWHERE: Final = {
    "REDIS_URL": "REDIS_HOST, REDIS_PORT, REDIS_DB and REDIS_PASSWORD",
    "POSTGRES_URL": "DATABASE_URL",
    "DB_URL": "DATABASE_URL",
    "DATABASE_URI": "DATABASE_URL",
    "ALLOWED_ORIGINS": "CORS_ORIGINS",
}
SERVICE_LINK: Final = "tcp://"
NAMES: Final = tuple(name.upper() for name in Settings.model_fields)


def read(overrides: Mapping[str, Any]) -> tuple[Settings | None, list[Finding]]:
    """The settings, or everything that is wrong with them."""
    names = judge_names(os.environ, "the environment")
    try:
        settings = Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        refused = [_refused(one) for one in error.errors(include_url=False, include_input=False)]
        return None, [*refused, *names, *_names_of_files()]
    except SettingsError as error:
        return None, [_unusable(str(error).partition("\n")[0], ""), *names, *_names_of_files()]
    except (OSError, UnicodeDecodeError) as error:
        return None, [_unusable(unreadable(error), ""), *names]
    names += _names_of_files()
    given = len(settings.model_fields_set)
    return settings, names or [fine(TOPIC, f"{given} of {len(NAMES)} are set, the others have their defaults")]


def _refused(error: Any) -> Finding:
    name = ".".join(str(part) for part in error["loc"]).upper()
    return _unusable(f"{name}: {_reason(error)}" if name else _reason(error), name)


def _reason(error: Any) -> str:
    reason: str = error["msg"]
    return reason.removeprefix("Value error, ")


def _unusable(what: str, name: str) -> Finding:
    if name and os.environ.get(name, "").startswith(SERVICE_LINK):
        do = f"set enableServiceLinks: false in the pod: {name} comes from a Kubernetes Service of that name"
    else:
        do = f"correct {name or 'it'} in the environment, in .env or in the secrets' folder"
    return problem(TOPIC, what, "the service does not start", do)


def _names_of_files() -> list[Finding]:
    found: list[Finding] = []
    if ENV_FILE.is_file():
        with suppress(OSError, UnicodeDecodeError):  # then it is what the settings were refused for
            found += judge_names(dotenv_values(ENV_FILE, interpolate=False), ".env")
    folder = Path(os.environ.get("SECRETS_DIR") or USUAL_FOLDER)
    try:
        # Kubernetes keeps its links' targets beside them, in names with dots.
        names = [one.name for one in folder.iterdir() if not one.name.startswith(".")] if folder.is_dir() else []
    except OSError as error:
        return [*found, _unlisted(folder, error)]
    return [*found, *judge_names(names, str(folder))]


def _unlisted(folder: Path, error: OSError) -> Finding:
    """Whoever may pass through a folder reads the files whose names he knows, as the settings do."""
    what = f"{folder} cannot be listed: {error.strerror}"
    follows = "a file in it whose name is misspelt goes unnoticed"
    return note(TOPIC, what, follows, f"ls -ld {folder}; chmod and chown it for who runs the service")


def judge_names(names: Iterable[str], place: str) -> list[Finding]:
    """Those that nobody reads, though somebody meant one of ours."""
    found = []
    for name in sorted(names):
        shout = name.upper()
        if shout in NAMES:
            continue
        if shout in ELSEWHERE:
            found.append(note(TOPIC, f"{name} in {place} is not read", do=f"set {ELSEWHERE[shout]} instead"))
        elif meant := get_close_matches(shout, NAMES, 1, ALIKE):
            found.append(
                warning(TOPIC, f"{name} in {place} is not read", "its setting has its default", f"write {meant[0]}")
            )
    return found
