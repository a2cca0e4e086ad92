"""Original messages at rest: zstd, with a shipped dictionary that knows the fleet's field names."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import zstandard

PLAIN: Final = 1
DICTIONARY_1: Final = 2
# Level 1's strategy with a smaller table and longer matches: three quarters of its time, 5 % larger.
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
    """Compresses with the newest dictionary and decompresses with the one a body was made with. Not thread-safe."""

    def __init__(self) -> None:
        self._codec = DICTIONARY_1
        dictionaries = {
            codec: zstandard.ZstdCompressionDict(files("app.sqal").joinpath(name).read_bytes())
            for codec, name in _DICTIONARIES.items()
        }
        newest = dictionaries[self._codec]
        newest.precompute_compress(compression_params=PARAMETERS)
        self._compressor = zstandard.ZstdCompressor(compression_params=PARAMETERS, dict_data=newest)
        self._decompressors = {
            codec: zstandard.ZstdDecompressor(dict_data=dictionary) for codec, dictionary in dictionaries.items()
        }
        self._decompressors[PLAIN] = zstandard.ZstdDecompressor()

    @property
    def codec(self) -> int:
        """The number stored beside what `compress` returns."""
        return self._codec

    def compress(self, raw: bytes) -> bytes:
        return self._compressor.compress(raw)

    def decompress(self, codec: int, body: bytes) -> bytes:
        """The original bytes. Raises zstandard.ZstdError for a damaged body, KeyError for an unknown codec."""
        return self._decompressors[codec].decompress(body)
