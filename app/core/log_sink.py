"""Lines go out at once where their reader keeps up. Where it does not, they wait in memory: nobody waits for a log."""

from __future__ import annotations

import os
import select
import stat
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PIPE_BUF: Final = getattr(select, "PIPE_BUF", 512)  # a pipe that is writable takes so much without waiting
WAITING_BYTES: Final = 4 * 1024 * 1024
RESERVE_BYTES: Final = 1024 * 1024  # on top of it, for lines that must not be lost
LOOK_S: Final = 0.2


class LineSink:
    """Writes whole lines to a descriptor, in order, from any thread.

    A line is written by who logs it when that takes no waiting: then it is out of this process before the call
    returns, and no crash can take it back. Otherwise it waits for a thread that writes. When too much waits, lines are
    dropped and counted, and `notice(how_many)` makes the line that says so.
    """

    def __init__(self, fd: int, notice: Callable[[int], bytes], *, waiting_bytes: int = WAITING_BYTES) -> None:
        self._fd = fd
        self._notice = notice
        self._waiting_bytes = waiting_bytes
        self._chunk = 1 << 30 if stat.S_ISREG(os.fstat(fd).st_mode) else PIPE_BUF
        # Reentrant: a collected object's destructor may log while its thread is in here.
        self._lock = threading.RLock()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._busy = False
        self._writer: threading.Thread | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._unsaid = 0
        self.dropped = 0

    def write(self, line: bytes, *, must: bool = False) -> None:
        """`must` lines may use the reserve."""
        with self._lock:
            if self._waiting or self._busy:
                self._put(line, must=must)
                self._start_writer()
                return
            self._busy = True
            dropped = self.dropped
            try:
                rest = self._write_what_fits(line)
            finally:
                self._busy = False
            if self._unsaid and self.dropped == dropped and not rest:  # it can be written again
                self._say_what_was_dropped()
            if rest:
                self._waiting.appendleft(rest)  # before what was logged from within
                self._bytes += len(rest)
            self._start_writer()

    def flush(self, deadline_s: float) -> bool:
        """Whether all that waits was written in time."""
        with self._lock:
            self._start_writer()
        return self._idle.wait(deadline_s)

    def _put(self, line: bytes, *, must: bool) -> None:
        if self._bytes + len(line) > self._waiting_bytes + (RESERVE_BYTES if must else 0):
            self._drop(1)
            return
        self._waiting.append(line)
        self._bytes += len(line)

    def _say_what_was_dropped(self) -> None:
        self._put(self._notice(self._unsaid), must=True)
        self._unsaid = 0

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        self._unsaid += lines

    def _write_what_fits(self, line: bytes) -> bytes:
        """Returns the rest, for which the reader has no room now."""
        while line and self._writable(0):
            try:
                line = line[os.write(self._fd, line[: self._chunk]) :]
            except BlockingIOError:
                break
            except OSError:  # nobody reads any more, or the disk is full
                self._drop(1)
                return b""
        return line

    def _writable(self, timeout_s: float) -> bool:
        if not hasattr(select, "poll"):
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(timeout_s * 1_000))

    def _start_writer(self) -> None:
        """If anything waits. Where no thread is to be had, it waits on: the next line tries again."""
        if self._waiting and not self._busy and self._writer is None:
            self._idle.clear()
            self._writer = threading.Thread(target=self._write_waiting, name="log-writer", daemon=True)
            try:
                self._writer.start()
            except RuntimeError:
                self._writer = None

    def _write_waiting(self) -> None:
        dropped = -1
        while True:
            with self._lock:
                if not self._waiting and self._unsaid and self.dropped == dropped:
                    self._say_what_was_dropped()
                dropped = self.dropped
                if not self._waiting:
                    self._writer = None
                    self._idle.set()
                    return
                line = self._waiting[0]  # stays there while it is written: others queue behind it
            rest = self._write_what_fits(line) if self._writable(LOOK_S) else line
            if rest == line:
                time.sleep(0.01)  # writable and yet not: somebody else writes there too
            with self._lock:
                self._bytes -= len(line) - len(rest)
                if rest:
                    self._waiting[0] = rest
                else:
                    self._waiting.popleft()
