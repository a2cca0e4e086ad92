"""Settings from files: what container engines and Kubernetes mount as secrets, one file for each setting."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_settings import PydanticBaseSettingsSource, SettingsError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

USUAL_FOLDER = Path("/run/secrets")


class SecretFiles(PydanticBaseSettingsSource):
    """Reads `database_url`, `redis_password`, ... in SECRETS_DIR; other names there are nobody's.

    A folder that was named must be there; the usual one may be absent. pydantic-settings' own source warns about that,
    and ignores links that lead out of the folder.
    """

    def __call__(self) -> dict[str, Any]:
        named = self.current_state.get("secrets_dir")
        folder = Path(str(named)) if named else USUAL_FOLDER
        try:
            present = folder.is_dir()
        except OSError as error:
            raise SettingsError(f"SECRETS_DIR: {folder} cannot be read: {error.strerror}") from error
        if named and not present:
            raise SettingsError(f"SECRETS_DIR: {folder} is not a folder")
        names = self.settings_cls.model_fields if present else ()
        found = {name: _content(folder / name) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # asked for by the base class; everything is read at once above


def _content(path: Path) -> str | None:
    """Without the end of its line, which editors and `echo` add; None when there is no such file. An empty one is a
    secret that somebody forgot: to go on without it would be to start on another database, or without a password.
    """
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{path.name.upper()}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path.name.upper()}: {path} is not UTF-8 text") from error
    if not text:
        raise SettingsError(f"{path.name.upper()}: {path} is empty")
    return text
