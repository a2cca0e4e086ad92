"""Original messages at rest: zstd, for small ones with a shipped dictionary that knows the fleet's field names."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import zstandard

PLAIN: Final = 1
DICTIONARY_1: Final = 2
# A dictionary makes a 2 kB message a third smaller; a 16 kB one an eighth, at a third more time.
DICTIONARY_UP_TO: Final = 4_096
# Level 1's strategy with a smaller table and longer matches: four fifths of its time, 2 % larger.
PARAMETERS: Final = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    window_log=15,
    hash_log=12,
    chain_log=6,
    search_log=1,
    min_match=6,
    target_length=0,
)
_DICTIONARIES: Final = {DICTIONARY_1: "messages-1.zdict"}


class MessageCodec:
    """Compresses small messages with the newest dictionary; decompresses what any release stored. Not thread-safe."""

    def __init__(self) -> None:
        dictionaries = {
            codec: zstandard.ZstdCompressionDict(files("app.sqal").joinpath(name).read_bytes())
            for codec, name in _DICTIONARIES.items()
        }
        newest = dictionaries[DICTIONARY_1]
        newest.precompute_compress(compression_params=PARAMETERS)
        self._small = zstandard.ZstdCompressor(compression_params=PARAMETERS, dict_data=newest)
        self._plain = zstandard.ZstdCompressor(compression_params=PARAMETERS)
        self._decompressors = {
            codec: zstandard.ZstdDecompressor(dict_data=dictionary) for codec, dictionary in dictionaries.items()
        }
        self._decompressors[PLAIN] = zstandard.ZstdDecompressor()

    def compress(self, raw: bytes) -> tuple[int, bytes]:
        """(codec, body), to be stored together."""
        if len(raw) <= DICTIONARY_UP_TO:
            return DICTIONARY_1, self._small.compress(raw)
        return PLAIN, self._plain.compress(raw)

    def decompress(self, codec: int, body: bytes) -> bytes:
        """The original bytes. Raises zstandard.ZstdError for a damaged body, KeyError for an unknown codec."""
        return self._decompressors[codec].decompress(body)
