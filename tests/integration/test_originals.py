from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from app.core.errors import NotFoundError
from app.sqal import originals, queries
from app.sqal.wire import Encoding
from tests.support import trimmed

if TYPE_CHECKING:
    from tests.integration.conftest import Bench


async def read(bench: Bench, sample_id: str) -> tuple[bytes, Encoding]:
    return await queries.sample_message(bench.connection, bench.codec, "ESP32_LL_01", sample_id, None)


async def test_every_original_of_a_group_comes_back_byte_for_byte(bench: Bench) -> None:
    works = []
    for number in range(60):
        encoding = Encoding.MSGPACK if number % 3 == 2 else Encoding.JSON
        message = trimmed(sample_id=f"s{number}", eleveur="\u00e9" * (number % 7), padding="x\u20ac" * (number * 97))
        if encoding is Encoding.JSON:
            works.append(bench.work(json.dumps(message, ensure_ascii=number % 2 == 0).encode()))
        else:
            works.append(bench.work(message, encoding))
    verdicts = await bench.write(*works)
    assert {verdict.status for verdict in verdicts} == {"saved"}
    assert 1 < await bench.count("messages") < 10  # several to a block
    for number, work in enumerate(works):
        assert await read(bench, f"s{number}") == (work.raw, work.encoding)


async def test_a_group_that_holds_duplicates_keeps_the_originals_of_the_others(bench: Bench) -> None:
    await bench.write(trimmed(sample_id="s1"))
    works = [bench.work(trimmed(sample_id=f"s{number}", note="again" * number)) for number in (0, 2)]
    verdicts = await bench.write(works[0], trimmed(sample_id="s1"), works[1])
    assert [verdict.status for verdict in verdicts] == ["saved", "duplicate", "saved"]
    assert [(await read(bench, name))[0] for name in ("s0", "s2")] == [work.raw for work in works]
    assert json.loads((await read(bench, "s1"))[0]) == trimmed(sample_id="s1")


async def test_without_a_segment_a_sample_is_stored_and_its_original_is_not(bench: Bench) -> None:
    await bench.connection.execute("DELETE FROM message_segments")
    (verdict,) = await bench.write(trimmed(sample_id="s1"))
    assert verdict.status == "saved"
    with pytest.raises(NotFoundError, match="no longer kept"):
        await read(bench, "s1")


async def test_blocks_are_bounded_in_bytes_and_one_large_message_is_a_block(bench: Bench) -> None:
    large = "y" * (originals.BLOCK_BYTES + 1)
    works = [
        bench.work(trimmed(sample_id=name, padding=padding)) for name, padding in (("a", ""), ("b", large), ("c", ""))
    ]
    blocks = originals.pack(bench.codec, works)
    assert [block.ids for block in blocks] == [[work.id] for work in works]
    assert originals.pack(bench.codec, []) == []
