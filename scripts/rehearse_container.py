"""Builds and runs the container without a container engine: `python -m scripts.rehearse_container [CONTAINERFILE]`.

It reads the Containerfile, carries out its instructions as they are written over Debian's own packages
(`rehearsal_root`), and runs the result as an engine would (`rehearsal_run`). Needs root, for mount namespaces, and
Debian's mmdebstrap and postgresql.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scripts import containerfile
from scripts.rehearsal_root import ROOT, Engine, RehearsalError, ended
from scripts.rehearsal_run import PATIENCE_S

if TYPE_CHECKING:
    import subprocess

CONTAINERFILE: Final = ROOT / "deploy" / "container" / "Containerfile"
RUN_DEADLINE_S: Final = 300
FINAL: Final = "final"
# What runs in there is its process 1: when that is killed, all that it has started goes with it.
NAMESPACES: Final = (
    "unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
)  # fmt: skip


def build(path: Path, work: Path) -> Path:
    """Every stage, in order; the root of the last one."""
    finished: dict[str, Path] = {}
    for number, stage in enumerate(containerfile.read(path)):
        began, name = time.monotonic(), stage.name or FINAL
        Engine(stage, work / str(number), finished, ROOT).build()
        finished[name] = work / str(number)
        print(f"built: stage {name} in {time.monotonic() - began:.0f} s", flush=True)
    return finished[FINAL]


def check(path: Path, root: Path, patience_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    """Runs a built root by this Containerfile's settings, in namespaces of its own."""
    with tempfile.TemporaryDirectory(prefix="gaveurs-container-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        words = [sys.executable, "-m", "scripts.rehearsal_run", str(path), str(root), folder, str(patience_s)]
        return ended([*NAMESPACES, *words], RUN_DEADLINE_S, cwd=ROOT)


def main() -> None:
    path = Path(sys.argv[1]) if sys.argv[1:] else CONTAINERFILE
    work = Path(tempfile.mkdtemp(prefix="gaveurs-image-", dir="/var/tmp"))
    try:
        done = check(path, build(path, work))
    except (RehearsalError, containerfile.ContainerfileError, OSError) as error:
        sys.exit(f"rehearse_container: {error}")
    finally:
        shutil.rmtree(work)
    print(done.stdout, end="")
    if done.returncode:
        sys.exit(f"rehearse_container: {done.stderr.strip()[-3000:]}")


if __name__ == "__main__":
    main()
