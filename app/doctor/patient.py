"""What is looked at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from app.settings import Settings

IN_A_POD: Final = "KUBERNETES_SERVICE_HOST"
KEYS_FOR_S3: Final = (  # as AWS's tools find them, without asking a metadata address
    "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Patient:
    """`replicas` share the database; `port` is where one of them would listen here."""

    settings: Settings
    replicas: int = 1
    port: int = 8000

    @property
    def embedded(self) -> bool:
        return self.settings.database_url is None

    @property
    def in_production(self) -> bool:
        return self.settings.environment == "production"

    @property
    def attachments_folder(self) -> Path | None:
        """None for a bucket."""
        if self.settings.bug_attachments_url is not None:
            return None
        return self.settings.bug_attachments_dir or self.settings.data_dir / "attachments"

    @property
    def backups_folder(self) -> Path | None:
        """None for a bucket, or where BACKUP_TO says nothing."""
        to = self.settings.backup_to
        return Path(to) if to and not to.startswith("s3://") else None

    @property
    def backs_up_elsewhere(self) -> bool:
        """BACKUP_TO is told to all pods of a deployment, what it takes to write there only to the one that does."""
        settings = self.settings
        if settings.backup_to is None:
            return False
        if self.backups_folder is not None:
            return IN_A_POD in os.environ and not self.backups_folder.exists()
        return settings.backup_s3_access_key is None and not any(name in os.environ for name in KEYS_FOR_S3)
