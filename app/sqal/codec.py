"""Original messages at rest: zstd; a small one alone with a shipped dictionary that knows the fleet's field names."""

from __future__ import annotations

import threading
from importlib.resources import files
from typing import Final

import zstandard

PLAIN: Final = 1
DICTIONARY_1: Final = 2
# A dictionary makes a 2 kB message a third smaller; a 16 kB one an eighth, at a third more time.
DICTIONARY_UP_TO: Final = 4_096
_FAST: Final = {"strategy": zstandard.STRATEGY_FAST, "chain_log": 6, "search_log": 1, "target_length": 0}
# Level 1's strategy with small tables and long matches: two thirds of its time, 3 % larger.
SMALL: Final = zstandard.ZstdCompressionParameters(**_FAST, window_log=15, hash_log=12, min_match=6)
LARGE: Final = zstandard.ZstdCompressionParameters(**_FAST, window_log=17, hash_log=13, min_match=7)
_DICTIONARIES: Final = {DICTIONARY_1: "messages-1.zdict"}


class MessageCodec(threading.local):
    """Compresses with the newest dictionary, decompresses what any release stored. Each thread has its own contexts."""

    def __init__(self) -> None:
        dictionaries = {
            codec: zstandard.ZstdCompressionDict(files("app.sqal").joinpath(name).read_bytes())
            for codec, name in _DICTIONARIES.items()
        }
        newest = dictionaries[DICTIONARY_1]
        newest.precompute_compress(compression_params=SMALL)
        self._small = zstandard.ZstdCompressor(compression_params=SMALL, dict_data=newest)
        self._large = zstandard.ZstdCompressor(compression_params=LARGE)
        self._decompressors = {
            codec: zstandard.ZstdDecompressor(dict_data=dictionary) for codec, dictionary in dictionaries.items()
        }
        self._decompressors[PLAIN] = zstandard.ZstdDecompressor()

    def compress(self, raw: bytes) -> tuple[int, bytes]:
        """(codec, body), to be stored together."""
        if len(raw) <= DICTIONARY_UP_TO:
            return DICTIONARY_1, self._small.compress(raw)
        return PLAIN, self._large.compress(raw)

    def decompress(self, codec: int, body: bytes) -> bytes:
        """The original bytes. Raises zstandard.ZstdError for a damaged body, KeyError for an unknown codec."""
        return self._decompressors[codec].decompress(body)
