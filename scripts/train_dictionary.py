"""Train the zstd dictionary for original messages: train_dictionary.py OUT FILE.jsonl [...]

A dictionary in use must never change: stored bodies need it. Train into a new file and give it a new codec number.
"""

import sys
from pathlib import Path

import zstandard

SIZE = 16 * 1024
CHUNK = 2_000


def main() -> None:
    lines = [line for name in sys.argv[2:] for line in Path(name).read_bytes().splitlines() if line]
    chunks = [line[start : start + CHUNK] for line in lines for start in range(0, len(line), CHUNK)]
    Path(sys.argv[1]).write_bytes(zstandard.train_dictionary(SIZE, chunks).as_bytes())


if __name__ == "__main__":
    main()
