"""Original messages at rest: zstd, with a shipped dictionary that knows the fleet's field names."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import zstandard

PLAIN: Final = 1
DICTIONARY_1: Final = 2
LEVEL: Final = 1
_DICTIONARIES: Final = {DICTIONARY_1: "messages-1.zdict"}


class MessageCodec:
    """Compresses with the newest dictionary and decompresses with the one a body was made with. Not thread-safe."""

    def __init__(self) -> None:
        self._codec = DICTIONARY_1
        dictionaries = {
            codec: zstandard.ZstdCompressionDict(files("app.sqal").joinpath(name).read_bytes())
            for codec, name in _DICTIONARIES.items()
        }
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, dict_data=dictionaries[self._codec])
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
