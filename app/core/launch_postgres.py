"""Run by path as `python -I -S launch_postgres.py OWNER UID GID POSTGRES [ARG ...]`: become the server.

It drops root's rights, asks the kernel to stop the server when its owner dies, and then *is* the server (exec), so
that PostgreSQL is a direct child of the process that owns it. It imports nothing of the product: it must start fast.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def die_with_owner(owner: int, prctl: Callable[..., int] | None) -> None:
    """Linux: SIGQUIT (immediate shutdown, recovery at the next start) as soon as the owning thread is gone.

    Set after the change of user, which clears it. Elsewhere an orphan is ended when the folder is opened again.
    """
    if prctl is not None and prctl(PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0) != 0:
        sys.exit("launch_postgres: the kernel refuses PR_SET_PDEATHSIG")
    if os.getppid() != owner:
        sys.exit("launch_postgres: the owner is gone")


def main() -> None:
    owner, uid, gid = (int(value) for value in sys.argv[1:4])
    # Loaded before root's rights go: the interpreter may live where the database's user cannot enter.
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    os.umask(0o077)
    if owner:
        os.setsid()  # a terminal's Ctrl-C is the owner's to handle: it drains first, then stops us
        die_with_owner(owner, prctl)
    os.execv(sys.argv[4], sys.argv[4:])  # noqa: S606 - the path comes from our own supervisor


if __name__ == "__main__":
    main()
