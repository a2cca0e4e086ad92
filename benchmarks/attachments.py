"""What a large attachment costs in memory and time, in and out, against a real server on this machine's disk.

Alone: `python -m benchmarks.attachments [--mib 1024]`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil

from tests.bug_client import Caller
from tests.support import running_server

MIB = 1024 * 1024


class Peak:
    """The most that a process's resident memory grew by since this was made."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._base = process.memory_info().rss
        self.grown = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.01):
                self.grown = max(self.grown, self._process.memory_info().rss - self._base)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1_024)
    size = parser.parse_args().mib
    block = b"\xe9" + os.urandom(MIB - 1)
    with running_server(BUG_ATTACHMENT_BYTES=str(size * MIB)) as server:
        process = psutil.Process(server.running.pid)
        bug = f"{server.url}/api/bugs/{Caller(server).report()}/attachments"
        peak = Peak(process)
        began, spent = time.perf_counter(), cpu_s(process)
        with peak.watching():
            made = httpx.post(bug, params={"fileName": "a.bin"}, content=(block for _ in range(size)), timeout=600)
        assert made.status_code == 201, made.text
        report("in, raw", size, began, cpu_s(process) - spent, peak)
        with tempfile.TemporaryFile() as file:
            for _ in range(size):
                file.write(block)
            file.seek(0)
            peak = Peak(process)
            began, spent = time.perf_counter(), cpu_s(process)
            with peak.watching():
                formed = httpx.post(bug, files={"file": ("a.bin", file)}, timeout=600)
            assert formed.status_code == 201, formed.text
            report("in, as a form", size, began, cpu_s(process) - spent, peak)
        peak, digest = Peak(process), hashlib.sha256()
        began, spent = time.perf_counter(), cpu_s(process)
        with peak.watching(), httpx.stream("GET", server.url + made.json()["url"], timeout=600) as given:
            for chunk in given.iter_raw(MIB):
                digest.update(chunk)
        assert digest.hexdigest() == made.json()["sha256"] == formed.json()["sha256"]
        report("out", size, began, cpu_s(process) - spent, peak)


def report(what: str, size: int, began: float, cpu: float, peak: Peak) -> None:
    took = time.perf_counter() - began
    print(
        f"{what:14} {size} MiB: {size / took:6.0f} MiB/s, {cpu:5.1f} s CPU, memory grew by {peak.grown / MIB:.0f} MiB"
    )


if __name__ == "__main__":
    main()
