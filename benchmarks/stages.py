"""What each stage of a sample costs, on varied messages and in groups as the server forms them."""

from __future__ import annotations

import hashlib
import timeit
from functools import partial
from typing import TYPE_CHECKING, Any

from app.core.clock import SystemClock
from app.sqal import originals, wire
from app.sqal.codec import MessageCodec
from app.sqal.prepare import TOGETHER, Preparer
from app.sqal.reading import finish_drafts, read_sample
from app.sqal.recipes import DeviceProfile, ReportedRecipe
from app.sqal.wire import Encoding
from benchmarks.load import templates

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.sqal.intake import Work


def each(work: Callable[[], Any], count: int) -> float:
    """Microseconds a sample: the best of five runs over all."""
    return min(timeit.repeat(work, number=1, repeat=5)) / count * 1e6


def over(work: Callable[[Any], Any], items: list[Any]) -> None:
    for item in items:
        work(item)


class Nobody:
    def deliver(self, work: Any, verdict: Any) -> None: ...


def report() -> None:
    """Print a row a stage."""
    codec = MessageCodec()
    preparer = Preparer(SystemClock())
    recipe, profile, nobody = ReportedRecipe(), DeviceProfile(), Nobody()
    print("\n| stage, us a sample | 16 kB | 2.2 kB |\n|---|---|---|")
    columns: list[dict[str, float]] = []
    for kind in ("fleet", "compact"):
        raws = [raw for raw, _, _ in templates(kind)]
        messages = [wire.decode_as("sensor_data", raw, Encoding.JSON) for raw in raws]
        drafts = [read_sample(message, Encoding.JSON) for message in messages]
        count = len(raws)

        def fresh(raws: list[bytes] = raws) -> list[Work]:
            return [preparer.sample(raw, Encoding.JSON, nobody, None) for raw in raws]

        def prepare(fresh: Callable[[], list[Work]] = fresh) -> None:
            works = fresh()
            for start in range(0, len(works), TOGETHER):
                preparer.prepare(works[start : start + TOGETHER])

        frames = [draft.reading.frame for draft in drafts]
        stages: dict[str, Callable[[], Any]] = {
            "decode (msgspec)": partial(over, lambda raw: wire.decode_as("sensor_data", raw, Encoding.JSON), raws),
            "check fields": partial(over, lambda message: read_sample(message, Encoding.JSON), messages),
            "pack frames (numpy)": partial(finish_drafts, drafts),
            "the three above, as the server does them": prepare,
            "hash (SHA-256)": partial(over, lambda raw: hashlib.sha256(raw).digest(), raws),
            "compress in blocks (zstd)": partial(originals.pack, codec, fresh()),
            "grade": partial(recipe.grade, frames, [profile] * count),
        }
        columns.append({name: each(work, count) for name, work in stages.items()})
    for name in columns[0]:
        print(f"| {name} | {columns[0][name]:.1f} | {columns[1][name]:.1f} |")
