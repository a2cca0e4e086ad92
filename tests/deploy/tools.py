"""The external programs that the checks of `deploy/` run. One that is missing fails the test that asks for it."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FETCHED = ROOT / ".venv" / "deploy-tools"
PATH = f"{FETCHED}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def tool(name: str) -> str:
    """Where it is: among what `make check-deploy` fetched, or in the system's folders."""
    found = shutil.which(name, path=PATH)
    assert found is not None, f"{name} is not installed: run `make check-deploy`, which installs it"
    return found
