"""`make bench-core`: the infrastructure core beside what others offer, everything in one run; prints the tables of
docs/benchmarks.md.

--seconds N (a measurement of ingest), --no-ingest (leaves out what needs a server: ingest and the hit rate)
"""

from __future__ import annotations

import argparse
import os
import platform
import sys

from benchmarks import breakers, caches, ingest, limiters, requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--no-ingest", action="store_true")
    given = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"Python {platform.python_version()}, {platform.machine()}, {cores} of {os.cpu_count()} cores")
    for part in (breakers, caches, limiters, requests):
        part.report()
    if given.no_ingest:
        return
    if cores < 2:
        sys.exit("bench: two cores are needed, one for the server and one for client and database")
    ingest.report(given.seconds)


if __name__ == "__main__":
    main()
