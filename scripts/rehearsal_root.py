"""What a container engine does with a Containerfile, done with mount namespaces: a root file system for each stage.

The base image is imitated by Debian's packages of the same suite and by this machine's Python of the same version,
put where the image has it. Everything else is the Containerfile's own instructions, run as they are written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scripts.containerfile import ContainerfileError, allowed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.containerfile import Instruction, Stage

ROOT: Final = Path(__file__).parents[1]
CACHE: Final = ROOT / ".venv" / "deploy-tools"
BUILD_DEADLINE_S: Final = 420
# What the slim Python image has beyond Debian's own minimum, for the modules of the standard library.
RUNTIME: Final = (
    "ca-certificates,netbase,tzdata,libssl3t64,libffi8,libsqlite3-0,libreadline8t64,libbz2-1.0,liblzma5,libuuid1,"
    "zlib1g,libncursesw6,libexpat1"
)
# The engine's, not the image's: how this machine reaches package registries.
NETWORK: Final = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs")
PASSED_ON: Final = ("PIP_", "SSL_CERT", "REQUESTS_CA", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


class RehearsalError(Exception):
    """Something that would not work in the container."""


def ended(command: Sequence[str], deadline_s: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """With whatever exit code. RehearsalError where it cannot be run, or does not end in time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, check=False, **options)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise RehearsalError(f"{' '.join(command)[-300:]}: it did not end within {deadline_s:g} s") from error
    except OSError as error:
        raise RehearsalError(f"{command[0]} cannot be run: {error.strerror}") from error


def run(*command: str, deadline_s: float = BUILD_DEADLINE_S, env: dict[str, str] | None = None) -> str:
    """Its output; the end of it in the error when it fails."""
    done = ended(command, deadline_s, env=env)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise RehearsalError(f"{' '.join(command)[-300:]}: exit code {done.returncode}\n{said}")
    return done.stdout


def inside(root: Path, mounts: list[str], command: list[str]) -> list[str]:
    """A command that runs `command` in `root` as process 1, with /proc, /dev and these mounts."""
    script = [
        "set -eu",
        'mount --bind "$0" "$0"',
        *mounts,
        'mount -t proc proc "$0/proc"',
        'mount --rbind /dev "$0/dev"',
        'exec /usr/sbin/chroot "$0" "$@"',
    ]
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", "\n".join(script), str(root), *command]


def debian(suite: str) -> Path:
    """The suite's minimal root as an archive, made once."""
    archive = CACHE / f"debian-{suite}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = archive.with_suffix(".partial.tar")
        run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={RUNTIME}", suite, str(partial))
        partial.replace(archive)
    return archive


def base_root(image: str, root: Path) -> None:
    """`python:3.11.14-slim-trixie`: Debian trixie with Python 3.11 in /usr/local."""
    version, _, suite = image.partition(":")[2].partition("-slim-")
    minor = ".".join(version.split(".")[:2])
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not suite or minor != ours:
        raise RehearsalError(f"{image}: run with Python {ours}, this needs a tag like python:{ours}.x-slim-SUITE")
    root.mkdir(parents=True)
    run("tar", "--extract", "--numeric-owner", "--file", str(debian(suite)), "--directory", str(root))
    _copy_python(Path(sys.base_prefix), root / "usr" / "local", minor)
    run("chroot", str(root), "/sbin/ldconfig")


def _copy_python(prefix: Path, target: Path, minor: str) -> None:
    if prefix == Path("/usr"):
        raise RehearsalError("needs a Python with a folder of its own, such as pyenv's; Debian's is spread over /usr")
    library = Path("lib") / f"python{minor}"

    def unwanted(folder: str, names: list[str]) -> set[str]:
        place = Path(folder).relative_to(prefix)
        dropped = {"__pycache__", "test", "idlelib", "tkinter", f"config-{minor}-x86_64-linux-gnu"} & set(names)
        if place == library / "site-packages":
            kept = ("pip", "setuptools", "_distutils", "distutils-p")
            dropped |= {name for name in names if not name.startswith(kept)}
        return dropped | {name for name in names if name.endswith(".a")}

    shutil.copytree(prefix / library, target / library, symlinks=True, ignore=unwanted)
    (target / "bin").mkdir(exist_ok=True)
    for library_file in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy2(library_file, target / "lib", follow_symlinks=False)
    shutil.copy2(prefix / "bin" / f"python{minor}", target / "bin")
    for name in ("python3", "python"):
        (target / "bin" / name).symlink_to(f"python{minor}")
    pip = target / "bin" / "pip"
    pip.write_text("#!/usr/local/bin/python3\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n")
    pip.chmod(0o755)


class Engine:
    """Carries out a stage's instructions; `finished` has the roots of the named stages before it."""

    def __init__(self, stage: Stage, root: Path, finished: dict[str, Path], context: Path) -> None:
        self._stage, self._root, self._finished, self._context = stage, root, finished, context
        self._folder = "/"
        self._env = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", "HOME": "/root"}
        self._ignored = [
            line for line in (context / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
        ]

    def build(self) -> None:
        base_root(self._stage.base.rpartition("/")[2], self._root)
        steps = {"RUN": self._run, "COPY": self._copy, "WORKDIR": self._workdir, "ENV": self._set}
        for instruction in self._stage.instructions:
            if instruction.name in steps:
                steps[instruction.name](instruction)

    def _set(self, instruction: Instruction) -> None:
        self._env |= instruction.pairs()

    def _workdir(self, instruction: Instruction) -> None:
        self._folder = instruction.rest
        (self._root / self._folder.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _copy(self, instruction: Instruction) -> None:
        *sources, target = instruction.words()
        from_stage = instruction.options.get("from")
        to = self._root / os.path.join(self._folder, target).lstrip("/")  # noqa: PTH118 - an absolute target wins
        for source in sources:
            if from_stage:
                run("cp", "--archive", "--link", f"{self._finished[from_stage] / source.lstrip('/')}", str(to))
            else:
                self._copy_from_context(source, to, into=target.endswith("/"))

    def _copy_from_context(self, source: str, to: Path, *, into: bool) -> None:
        files = [self._context / source]
        if files[0].is_dir():
            files = [path for path in files[0].rglob("*") if path.is_file()]
        wanted = [path for path in files if allowed(str(path.relative_to(self._context)), self._ignored)]
        if not wanted:
            raise ContainerfileError(f"COPY {source}: .dockerignore keeps it out of the build")
        for path in wanted:
            below = path.relative_to(self._context / source)
            destination = to / path.name if into else to / below
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, destination)

    def _run(self, instruction: Instruction) -> None:
        mounts = [f'mount --bind -o ro {path} "$0{path}"' for path in NETWORK if self._place(path)]
        mounts += ['mount -t tmpfs tmpfs "$0/tmp"', *self._cache_mounts(instruction)]
        shell = ["/bin/sh", "-c", f"cd {self._folder} && {instruction.rest}"]
        outer = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        run(*inside(self._root, mounts, shell), env=outer | {"DEBIAN_FRONTEND": "noninteractive"} | self._env)

    def _place(self, path: str) -> bool:
        """Whether the machine has it; a place for it in the root."""
        here, there = Path(path), self._root / path.lstrip("/")
        if here.is_file() and not there.exists():
            there.touch()
        return here.exists()

    def _cache_mounts(self, instruction: Instruction) -> list[str]:
        mount = dict(part.split("=", 1) for part in instruction.options.get("mount", "").split(",") if part)
        if not mount:
            return []
        if mount.keys() != {"type", "target"} or mount["type"] != "cache":
            raise ContainerfileError(f"RUN --mount={instruction.options['mount']} is not understood")
        cache = run(sys.executable, "-m", "pip", "cache", "dir").strip()
        Path(cache).mkdir(parents=True, exist_ok=True)
        (self._root / mount["target"].lstrip("/")).mkdir(parents=True, exist_ok=True)
        return [f'mount --bind {cache} "$0{mount["target"]}"']
